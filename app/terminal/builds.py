"""The progress of a build, as people read it in a terminal."""

from __future__ import annotations

from app.terminal.text import duration_cell, gib_number, size_cell

BAR_CELLS = 28
DOWNLOAD = "source package"  # counted in bytes; what else is done, in steps


def build_progress_line(what: str, done: int, total: int, per_second: float) -> str:
    """`compiling  ################............  57 %  112 of 196  3 min left`."""
    full = min(BAR_CELLS, done * BAR_CELLS // total) if total else 0
    bar = "#" * full + "." * (BAR_CELLS - full)
    return "  ".join([what, bar, *build_progress_facts(what, done, total, per_second)])


def build_progress_facts(what: str, done: int, total: int, per_second: float) -> list[str]:
    """`["57 %", "112 of 196", "3 min left"]`. `per_second`: since it began or went on, 0 while that is not known."""
    if not total:
        return []
    amount = f"{gib_number(done)} of {size_cell(total)}" if what == DOWNLOAD else f"{done} of {total}"
    left = [f"{duration_cell((total - done) / per_second)} left"] if per_second and done < total else []
    return [f"{100 * done // total} %", amount, *left]
