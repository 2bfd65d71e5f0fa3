"""llama-server's options as settings of a model; others become its `args`, if those are allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.use_cases.estimate.kv_cache import CACHE_TYPES, is_quantized
from app.use_cases.migration.command import WrittenOption
from app.use_cases.migration.remarks import Remarks

MAX_INT = 2**31 - 1  # llama-server's integers have 32 bits
MAX_SLOTS = 256
ALL_LAYERS_FROM = 99  # the number that people write for all layers

_ON = dict.fromkeys(("on", "1", "true", "enabled", "yes"), "on")
_OFF = dict.fromkeys(("off", "0", "false", "disabled", "no"), "off")
_FLASH_ATTENTION = _ON | _OFF | {"auto": "auto", "-1": "auto"}

# What the proxy decides or does itself: leaving it out takes nothing from the user.
_UNNEEDED = frozenset(
    {
        "--host",
        "--port",
        "--reuse-port",
        "--alias",
        "-a",
        "--slots",
        "--no-slots",
        "--metrics",
        "--no-metrics",
        "--props",
        "--no-props",
        "--log-disable",
        "--device",
        "-dev",
        "--tensor-split",
        "-ts",
        "--split-mode",
        "-sm",
        "--main-gpu",
        "-mg",
        "--fit",
        "-fit",
        "--fit-target",
        "-fitt",
        "--fit-ctx",
        "-fitc",
        "--webui",
        "--no-webui",
        "--ui",
        "--no-ui",
        "--sleep-idle-seconds",
    }
)


@dataclass(frozen=True, slots=True)
class _Reading:
    settings: Mapping[str, Any]
    difference: str = ""  # from what the option does


_Reader = Callable[[str], _Reading]


def _natural(value: str, most: int = MAX_INT) -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > 10 or int(value) > most:
        raise ValueError
    return int(value)


def _context(value: str) -> _Reading:
    tokens = _natural(value)
    if tokens:
        return _Reading({"ctx_size": tokens})
    return _Reading({}, "0 is the model's own context; ctx_size is auto: the largest up to 32768 that fits a GPU")


def _slots(value: str) -> _Reading:
    if value == "-1":
        return _Reading({})
    if not (slots := _natural(value, MAX_SLOTS)):
        raise ValueError
    return _Reading({"parallel": slots})


def _positive(key: str) -> _Reader:
    def read(value: str) -> _Reading:
        if not (number := _natural(value)):
            raise ValueError
        return _Reading({key: number})

    return read


def _cache_type(key: str) -> _Reader:
    def read(value: str) -> _Reading:
        if value not in CACHE_TYPES:
            raise ValueError
        return _Reading({key: value})

    return read


def _layers(value: str) -> _Reading:
    if value in ("all", "auto", "-1", "-2") or (layers := _natural(value)) >= ALL_LAYERS_FROM:
        return _Reading({})  # the default
    return _Reading({"n_gpu_layers": layers})


def _flash_attention(value: str) -> _Reading:
    choice = _FLASH_ATTENTION.get(value.lower() or "on")
    if choice is None:
        raise ValueError
    return _Reading({} if choice == "auto" else {"flash_attn": choice})


def _projector(value: str) -> _Reading:
    return _Reading({"mmproj": value if value not in ("auto", "off", "on") else f"./{value}"})


def _experts(value: str) -> _Reading:
    layers = _natural(value)
    return _Reading({"cpu_moe": layers} if layers else {})


def _prompt_cache(value: str) -> _Reading:
    if value == "-1":
        return _Reading({}, "prompt_cache: auto has a share of the free RAM; a cache without a limit cannot be booked")
    mib = _natural(value)
    return _Reading({"prompt_cache": f"{mib}MiB" if mib else 0})


_VALUES: Mapping[str, _Reader] = {
    **dict.fromkeys(("--ctx-size", "-c"), _context),
    **dict.fromkeys(("--parallel", "-np"), _slots),
    **dict.fromkeys(("--ubatch-size", "-ub"), _positive("ubatch_size")),
    **dict.fromkeys(("--cache-type-k", "-ctk"), _cache_type("cache_type_k")),
    **dict.fromkeys(("--cache-type-v", "-ctv"), _cache_type("cache_type_v")),
    **dict.fromkeys(("--gpu-layers", "--n-gpu-layers", "-ngl"), _layers),
    **dict.fromkeys(("--flash-attn", "-fa"), _flash_attention),
    **dict.fromkeys(("--mmproj", "-mm"), _projector),
    **dict.fromkeys(("--n-cpu-moe", "-ncmoe"), _experts),
    **dict.fromkeys(("--cache-ram", "-cram"), _prompt_cache),
}
_ALL_EXPERTS = "cpu_moe: on keeps the experts in RAM only if no GPU fits the whole model"
_SWITCHES: Mapping[str, _Reading] = {
    **dict.fromkeys(("--flash-attn", "-fa"), _Reading({"flash_attn": "on"})),  # older builds took no value
    **dict.fromkeys(("--kv-unified", "-kvu"), _Reading({"kv_unified": True})),
    **dict.fromkeys(("--no-kv-unified", "-no-kvu"), _Reading({"kv_unified": False})),
    **dict.fromkeys(("--cpu-moe", "-cmoe"), _Reading({"cpu_moe": "on"}, _ALL_EXPERTS)),
    "--no-mmproj": _Reading({"mmproj": "off"}),
    **dict.fromkeys(("--mmproj-auto", "--no-mmproj-auto"), _Reading({})),
}


def model_settings(
    options: Sequence[WrittenOption], why_denied: Callable[[str], str | None], remarks: Remarks
) -> dict[str, Any]:
    """The settings that these options ask for. `why_denied`: why an argument must not be in `args`, if so."""
    settings: dict[str, Any] = {}
    args: list[str] = []
    refused: dict[tuple[bool, str], list[str]] = {}
    for option in options:
        try:
            reading = _read(option)
        except ValueError:
            remarks.dropped(option.name, "its value is not one that llama-server takes")
            continue
        if reading is not None:
            settings.update(reading.settings)
            if reading.difference:
                remarks.changed(option.name, reading.difference)
        elif why := _why_refused(option, why_denied):
            refused.setdefault((option.name in _UNNEEDED, why), []).append(option.name or "a word without an option")
        else:
            args += [option.name, *option.values]
    for (unneeded, why), names in refused.items():
        (remarks.unneeded if unneeded else remarks.dropped)(", ".join(dict.fromkeys(names)), why)
    return _consistent(settings, remarks) | ({"args": args} if args else {})


def _read(option: WrittenOption) -> _Reading | None:
    """None: no setting. Raises ValueError."""
    if not option.values and option.name in _SWITCHES:
        return _SWITCHES[option.name]
    if option.name not in _VALUES and option.name not in _SWITCHES:
        return None
    if len(option.values) != 1 or option.name not in _VALUES or not option.values[0]:
        raise ValueError
    return _VALUES[option.name](option.values[0])


def _why_refused(option: WrittenOption, why_denied: Callable[[str], str | None]) -> str:
    if not option.name:
        return "llama-server takes no such words"
    if option.name in ("--batch-size", "-b"):
        return "the service chooses it: 2048, or ubatch_size if that is larger"
    why = next(filter(None, map(why_denied, (option.name, *option.values))), "")
    return why.partition(": ")[2] or why


def _consistent(settings: dict[str, Any], remarks: Remarks) -> dict[str, Any]:
    """The settings with what llama-server itself concludes from their combination."""
    if "parallel" not in settings:
        if settings.get("kv_unified") is False:
            del settings["kv_unified"]  # llama-server's own number of slots shares the cache
    elif settings["parallel"] > 1:
        settings.setdefault("kv_unified", False)
    if settings.get("flash_attn") == "off" and is_quantized(settings.get("cache_type_v", "f16")):
        del settings["flash_attn"]
        remarks.dropped("--flash-attn off", "a quantized V cache needs flash attention")
    return settings
