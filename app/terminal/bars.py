"""A GPU's memory as one bar, split into what takes it, and the figures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from app.terminal.text import UNKNOWN, gib_number, printable
from app.use_cases.reporting.status_parts import model_numbers, ram_parts

if TYPE_CHECKING:
    from rich.text import Text

MODEL_COLORS = ("blue", "magenta", "cyan", "green", "yellow", "red")
# What fills a part of the bar without colour. claimed: of a model that loads, not yet allocated.
FILLS = {"model": "#", "claimed": "/", "other": "+", "reserve": "-", "free": "."}
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_CELLS = 24
FIGURES_CELLS, SHORT_FIGURES_CELLS = 36, 22
MAX_LABEL_CELLS = 24
WIDE = 130  # columns from which the utilization's last minutes are shown
NARROW = 80  # columns below which temperature and power are left out


@dataclass(frozen=True, slots=True)
class BarPart:
    """`kind` as in GET /status; `color`: of the model, "" for what is none."""

    kind: str
    name: str
    size_bytes: int
    color: str = ""


def model_colors(status: Mapping[str, Any]) -> dict[str, str]:
    """A colour for each loaded model."""
    return {name: MODEL_COLORS[number % len(MODEL_COLORS)] for name, number in model_numbers(status).items()}


def gpu_segments_of(gpu: Mapping[str, Any], colors: Mapping[str, str]) -> list[BarPart]:
    parts = gpu["segments"]
    return [BarPart(p["kind"], p["model"] or p["kind"], p["bytes"], colors.get(p["model"] or "", "")) for p in parts]


def ram_segments(ram: Mapping[str, int]) -> list[BarPart]:
    of_models, other, free = ram_parts(ram)
    return [
        BarPart("model", "models", of_models, "blue"),
        BarPart("other", "other", other),
        BarPart("free", "free", free),
    ]


def bar(segments: Sequence[BarPart], cells: int, is_colored: bool) -> Text:
    """Exactly `cells` wide, brackets included."""
    from rich.text import Text

    shown = Text("[")
    for segment, width in zip(segments, shares([s.size_bytes for s in segments], cells - 2), strict=True):
        shown.append(_filled(segment, width, is_colored), _style(segment) if is_colored else "")
    return shown.append("]")


def shares(sizes: Sequence[int], cells: int) -> list[int]:
    """Whole cells for each size that are `cells` together."""
    total = sum(sizes) or 1
    ends = [round(end * cells / total) for end in accumulate(sizes)]
    if ends:
        ends[-1] = cells
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _filled(segment: BarPart, cells: int, is_colored: bool) -> str:
    """A name, where there is room for a few of its letters, and a fill that ends it."""
    from rich.cells import cell_len, set_cell_size

    fill = " " if is_colored and segment.kind in ("model", "other") else FILLS[segment.kind]
    name = printable(segment.name.rpartition("/")[2]) if segment.kind in ("model", "other") and cells > 3 else ""
    name = set_cell_size(name, min(cell_len(name), cells - 1)) if name else ""
    return name + fill * (cells - cell_len(name))


def _style(segment: BarPart) -> str:
    match segment.kind:
        case "model":
            return f"white on {segment.color or 'blue'}"
        case "claimed":
            return segment.color or "blue"
        case "other":
            return "white on bright_black"
    return "bright_black"


def figures(used_bytes: int | None, total_bytes: int | None, *values: str) -> str:
    """`21.4/24.0 GiB   63 %  61 °C  287 W`"""
    return f"{gib_number(used_bytes)}/{gib_number(total_bytes)} GiB".rjust(15) + "".join(values)


def gpu_figures(gpu: Mapping[str, Any], is_short: bool) -> str:
    percent, celsius, watts = map(_whole, (gpu["utilization_percent"], gpu["temperature_celsius"], gpu["power_watts"]))
    more = "" if is_short else f"{celsius:>4} °C{watts:>5} W"
    return figures(gpu["used_bytes"], gpu["total_bytes"], f"{percent:>5} %", more)


def gpu_label(gpu: Mapping[str, Any]) -> str:
    """`GPU 0 RTX 4090`"""
    name = printable(gpu["name"]).removeprefix("NVIDIA ").removeprefix("GeForce ")
    return f"GPU {gpu['index']} {name}"


def sparkline(percents: Sequence[float | None], cells: int) -> str:
    """The last values as blocks, the newest on the right; a gap where one is unknown."""
    last = list(percents)[-cells:] if cells else []
    return "".join(map(_spark, last)).rjust(cells)


def _spark(percent: float | None) -> str:
    return " " if percent is None else SPARKS[min(len(SPARKS) - 1, int(percent * len(SPARKS) / 100))]


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


def memory_lines(status: Mapping[str, Any], trends: Mapping[str, Any], width: int, is_colored: bool) -> Iterator[Text]:
    """A line for each GPU, for the missing ones, and for RAM. `trends`: utilization by UUID, oldest first."""
    from rich.text import Text

    colors = model_colors(status)
    labels = min(MAX_LABEL_CELLS, max(map(len, ("RAM", *map(gpu_label, status["gpus"])))))
    sparks = SPARK_CELLS if width >= WIDE and status["gpus"] else 0
    is_narrow = width < NARROW
    cells = width - labels - 1 - (SHORT_FIGURES_CELLS if is_narrow else FIGURES_CELLS) - (sparks and sparks + 2)
    for gpu in status["gpus"]:
        line = _label(gpu_label(gpu), labels).append_text(bar(gpu_segments_of(gpu, colors), cells, is_colored))
        line.append(gpu_figures(gpu, is_narrow))
        trend = sparkline(trends.get(gpu["uuid"], ()), sparks).rjust(sparks + 2) if sparks else ""
        yield line.append(trend, "green" if is_colored else "")
    for gpu in status["missing_gpus"]:
        yield Text(f"{gpu_label(gpu)}: missing: {printable(gpu['problem'])}", style="red")
    if ram := status["ram"]:
        used = ram["total_bytes"] - ram["available_bytes"]
        line = _label("RAM", labels).append_text(bar(ram_segments(ram), cells, is_colored))
        yield line.append(figures(used, ram["total_bytes"]))


def _label(text: str, cells: int) -> Text:
    from rich.cells import set_cell_size
    from rich.text import Text

    return Text(set_cell_size(text, cells) + " ")
