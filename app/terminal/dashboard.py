"""What `top` shows: memory, servers, the queue and the last decisions, in as many lines as the terminal has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.terminal.bars import memory_lines
from app.terminal.decisions import time_text
from app.terminal.servers import EXPENDABLE, queue_lines, server_table
from app.terminal.table import fitted, rich_table
from app.terminal.text import duration_cell, printable, rate_cell

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

DECISIONS = 5
KEYS = "q quit  ↑↓ select  l log  u unload"
KEYS_WITHOUT_ADMIN = "q quit  ↑↓ select"


@dataclass(frozen=True, slots=True)
class Screen:
    """The terminal, and what the user did. `message`: in place of the keys, in the last line."""

    width: int
    height: int | None  # None: as many lines as it takes, printed once
    is_colored: bool
    selected: int = 0  # a row of the servers
    message: str = ""
    trends: Mapping[str, Any] = field(default_factory=dict)  # utilization by UUID, oldest first


def dashboard(status: Mapping[str, Any], url: str, screen: Screen, now: datetime) -> RenderableType:
    """Exactly `screen.height` lines, if it has one. `now`: local time."""
    from rich.console import Group

    memory = list(memory_lines(status, screen.trends, screen.width, screen.is_colored))
    queue, decisions = list(_queue(status)), list(_decisions(status, now))
    problems = [_text(f"degraded: {printable(reason)}", "red") for reason in status["reasons"]]
    wanted = [len(problems), len(memory), 1 + len(status["servers"]), len(queue), len(decisions)]
    lines = None if screen.height is None else max(0, screen.height - 2)  # without the first and the last one
    gap, given = divided(lines, wanted, least=[1, 2, 4, 1, 0])
    blocks: list[Sequence[RenderableType]] = [
        _cut(problems, given[0]),
        _cut(memory, given[1]),
        [_servers(status, screen, given[2])] if given[2] else [],
        _cut(queue, given[3]),
        decisions[len(decisions) - given[4] :],
    ]
    shown: list[RenderableType] = [_header(status, url)]
    for block in filter(None, blocks):
        shown += [*([_text("")] if gap and len(shown) > 1 else []), *block]
    if lines is None:
        return Group(*shown)
    empty = lines - sum(given) - gap * (sum(map(bool, given)) - 1)
    return Group(*shown, *[_text("")] * empty, _footer(status, screen))


def divided(lines: int | None, wanted: Sequence[int], least: Sequence[int]) -> tuple[int, list[int]]:
    """1 if there is room for an empty line between the blocks, else 0; and the lines of each block.

    Where there are too few, the last block becomes shorter first, down to `least`; then the last ones are left out.
    """
    if lines is None or sum(wanted) + sum(map(bool, wanted)) - 1 <= lines:
        return 1, list(wanted)
    given = list(wanted)
    for floors in (least, [0] * len(wanted)):
        for number in reversed(range(len(given))):
            excess = max(0, sum(given) - lines)
            given[number] = max(min(floors[number], given[number]), given[number] - excess)
    return 0, given


def _cut(lines: Sequence[Text], count: int) -> Sequence[Text]:
    if len(lines) <= count or not count:
        return lines[:count]
    return [*lines[: count - 1], _text(f"... {len(lines) - count + 1} more", "bright_black")]


def _header(status: Mapping[str, Any], url: str) -> Text:
    rate = sum(server["tokens_per_second"] or 0 for server in status["servers"])
    state = "degraded" if status["degraded"] and status["status"] == "ok" else status["status"]
    header = _text("llama-smart-proxy ", "bold").append(f"{printable(status['version'])}  ", "not bold")
    header.append(printable(state), "green" if state == "ok" else "red")
    more = [f"up {duration_cell(status['uptime_seconds'])}", printable(url)]
    if status["waiting"]:
        more.insert(0, f"{status['waiting']} waiting")
    if rate:
        more.insert(0, f"{rate_cell(rate)} tokens/s")
    return header.append("  ".join(["", *more]), "not bold")


def _servers(status: Mapping[str, Any], screen: Screen, lines: int) -> RenderableType:
    """As many rows as there are lines for, the selected one among them."""
    if not status["servers"]:
        return _text("No model is loaded.")
    whole = server_table(status, keeps_columns=True)
    if screen.height is not None:
        whole = fitted(whole, screen.width, EXPENDABLE)
    selected = min(screen.selected, len(whole.rows) - 1)
    first = max(0, selected - (lines - 2))
    rows = whole.rows[first : first + lines - 1]
    return rich_table(replace(whole, rows=rows), selected=selected - first if screen.height else None)


def _queue(status: Mapping[str, Any]) -> Iterator[Text]:
    yield from (_text(line, "yellow") for line in queue_lines(status))


def _decisions(status: Mapping[str, Any], now: datetime) -> Iterator[Text]:
    """The newest last, as in a log."""
    for decision in reversed(status["decisions"][:DECISIONS]):
        yield _text(f"{time_text(decision['at'], now)}  {printable(decision['text'])}")


def _footer(status: Mapping[str, Any], screen: Screen) -> Text:
    keys = KEYS if status["admin"] else KEYS_WITHOUT_ADMIN
    return _text(printable(screen.message), "bold") if screen.message else _text(keys, "bright_black")


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def selected_server(status: Mapping[str, Any], selected: int) -> Mapping[str, Any] | None:
    servers = status["servers"]
    return servers[min(selected, len(servers) - 1)] if servers else None


def unload_question(server: Mapping[str, Any]) -> str:
    requests = server["requests"]
    ends = "" if not requests else f" once {requests} running request{'s' * (requests > 1)} ended"
    return f"unload {printable(server['model'])}{ends}? y/n"
