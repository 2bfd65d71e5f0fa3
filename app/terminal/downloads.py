"""Downloads of GET /status, and the quants of a repository, as people read them in a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from app.terminal.table import Table, TableRow, cut_in_the_middle, table
from app.terminal.text import UNKNOWN, duration_cell, printable, size_cell, tokens_cell
from app.use_cases.reporting.phrases import GIB, MIB, SAID_IN_GIB

BAR_CELLS = 28
LEAST_BAR_CELLS = 8
LEAST_NAME_CELLS = 16
_KEPT = "the partial download is kept, and the same command resumes it"
EXPENDABLE = ("CONTEXT", "NEEDS")  # columns of the table of quants, the first one first
OUTCOME_STYLES = {"evict": "yellow", "wait": "yellow", "refuse": "red"}


def progress_line(download: Mapping[str, Any], columns: int) -> str:
    """One line of a terminal this wide: `NAME  ####....  57 %  4.8 of 8.4 GiB  92 MiB/s  40 s left`."""
    text = "  ".join(progress_facts(download))
    name, room = printable(download["model"]), columns - len(text) - 3
    name = cut_in_the_middle(name, max(LEAST_NAME_CELLS, room - LEAST_BAR_CELLS - 2))
    cells = min(BAR_CELLS, room - len(name) - 2)
    share = _share(download)
    has_bar = share is not None and cells >= LEAST_BAR_CELLS and download["state"] in ("downloading", "verifying")
    bar = f"{_bar(share or 0.0, cells)}  " if has_bar else ""
    return f"{name}  {bar}{text}"[: columns - 1]


def progress_facts(download: Mapping[str, Any]) -> list[str]:
    """`["57 %", "4.8 of 8.4 GiB", "92 MiB/s", "40 s left"]`, or what it does before and after. One that waits
    says why."""
    if download["state"] != "downloading":
        doing = {"checking": "checking its files", "verifying": "verifying the checksums"}
        return [doing.get(download["state"], download["state"])]
    share, rate, left = _share(download), download["bytes_per_second"], download["seconds_left"]
    percent = [] if share is None else [f"{100 * share:3.0f} %"]
    speed = [f"{size_cell(round(rate))}/s"] if rate else []
    rest = [f"{duration_cell(left)} left"] if left is not None else []
    return [*percent, done_text(download), *([printable(download["problem"])] if download["problem"] else speed + rest)]


def download_line(download: Mapping[str, Any]) -> str:
    """Of one that runs: `downloading: NAME: 57 %, 4.8 of 8.4 GiB, 92 MiB/s, 40 s left`."""
    return f"downloading: {printable(download['model'])}: {', '.join(progress_facts(download)).lstrip()}"


def done_text(download: Mapping[str, Any]) -> str:
    """`4.8 of 8.4 GiB`."""
    done, total = download["done_bytes"], download["total_bytes"]
    if total is None:
        return size_cell(done)
    unit = MIB if total < SAID_IN_GIB else GIB
    return f"{done / unit:,.{0 if unit == MIB else 1}f} of {size_cell(total)}"


def _share(download: Mapping[str, Any]) -> float | None:
    total = download["total_bytes"]
    return min(1.0, download["done_bytes"] / total) if total else None


def _bar(share: float, cells: int) -> str:
    full = int(share * cells)
    return "#" * full + "." * (cells - full)


def is_running(download: Mapping[str, Any]) -> bool:
    return download["state"] in ("checking", "downloading", "verifying")


def end_text(download: Mapping[str, Any], seconds: float) -> str:
    """Of a download that has ended: what became of it. `seconds`: how long somebody waited for it."""
    name = printable(download["model"])
    match download["state"]:
        case "complete":
            took = f", after {duration_cell(seconds)}" if seconds >= 1 else ""
            return f"{name} is downloaded: {size_cell(download['total_bytes'])}{took}"
        case "canceled":
            return f"{name}: canceled{_kept_text(download)}"
        case _:
            return str(download["problem"])


def _kept_text(download: Mapping[str, Any]) -> str:
    """ "" of one that was stopped before a byte came."""
    return f" at {done_text(download)}; {_KEPT}" if download["done_bytes"] else ""


def stopped_text(download: Mapping[str, Any], is_canceled: bool) -> str:
    """After Ctrl-C. `is_canceled`: False if it goes on without this command."""
    name = printable(download["model"])
    if is_canceled:
        return f"{name}: stopped{_kept_text(download)}"
    return f"{name}: the service goes on with the download; the same command shows its progress again"


# --- the quants of a repository -------------------------------------------------------------------------------------


def quant_table(quants: Sequence[Mapping[str, Any]]) -> Table:
    """Of the body of POST /models/pull with `plan`."""
    return table("QUANT SIZE NEEDS CONTEXT NOW", map(_row, quants), numbers="SIZE NEEDS", styled="NOW")


def _row(quant: Mapping[str, Any]) -> TableRow:
    now = printable(quant["problem"] or quant["text"]) + _marks(quant)
    cells = (
        printable(quant["quant"] or quant["name"]),
        size_cell(quant["size_bytes"]),
        size_cell(quant["needed_bytes"]),
        tokens_cell(quant["ctx_size"] or None),
        now or UNKNOWN,
    )
    return TableRow(cells, _style(quant))


def _marks(quant: Mapping[str, Any]) -> str:
    return (" (downloaded)" if quant["downloaded"] else "") + ("   <- recommended" if quant["recommended"] else "")


def _style(quant: Mapping[str, Any]) -> str:
    if quant["recommended"]:
        return "green"
    return "red" if quant["problem"] else OUTCOME_STYLES.get(quant["outcome"], "")


def next_step(quants: Sequence[Mapping[str, Any]]) -> str:
    """The command to type after the table."""
    best = next((quant for quant in quants if quant["recommended"]), None)
    if best is None:
        if not any(quant["outcome"] for quant in quants):
            return "None of them could be planned."
        return "None of them fits this machine with 32k of context."
    verb, what = ("run", "chat with it") if best["downloaded"] else ("pull", "pull it")
    return f"{what}:  llama-smart-proxy {verb} {shlex.quote(printable(best['name']))}"
