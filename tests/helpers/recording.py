"""A recording of a terminal as an animated SVG: rich draws the screens, CSS shows one after the other."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

CELL_WIDTH, LINE_HEIGHT, MARGIN = 12.2, 24.4, 12.0  # of rich's SVG

# Dark enough for white names on them.
_NORMAL = [(30, 32, 36), (200, 70, 70), (90, 150, 70), (170, 130, 40), (50, 100, 170), (140, 80, 150), (40, 130, 140)]
_NORMAL.append((236, 238, 240))
_THEME = TerminalTheme((30, 32, 36), (210, 214, 218), _NORMAL, [(110, 114, 120), *_NORMAL[1:]])

# Without a font from elsewhere. Each character has its place, so that any monospaced one is aligned.
_FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 WIDTH HEIGHT" role="img" aria-label="TITLE">
<style>
.{unique_id}-matrix {{ font: 20px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; }}
{styles}
@keyframes film {{ from {{ transform: none; }} to {{ transform: translateY(-FILMpx); }} }}
.film {{ transform: translateY(-STILLpx); animation: film SECONDSs steps(COUNT) infinite; }}
@media (prefers-reduced-motion: reduce) {{ .film {{ animation: none; }} }}
</style>
<defs>{lines}</defs>
<rect width="WIDTH" height="HEIGHT" rx="8" fill="#1e2024"/>
<svg x="MARGIN" y="MARGIN" width="INNER_WIDTH" height="INNER_HEIGHT"><g class="film">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
</svg>
"""


def animated_svg(title: str, screens: Sequence[str], columns: int, lines: int, seconds_each: float) -> str:
    """`screens`: with their escape sequences, each of `lines` lines. Where nothing moves, the last one is seen."""
    recorded = Console(file=io.StringIO(), record=True, width=columns, force_terminal=True, color_system="truecolor")
    for screen in screens:
        for line in (screen.splitlines() + [""] * lines)[:lines]:
            recorded.print(Text.from_ansi(line), no_wrap=True, overflow="crop", crop=True)
    width, height = columns * CELL_WIDTH, lines * LINE_HEIGHT
    values = {
        "INNER_WIDTH": f"{width:.0f}",
        "INNER_HEIGHT": f"{height:.1f}",
        "WIDTH": f"{width + 2 * MARGIN:.0f}",
        "HEIGHT": f"{height + 2 * MARGIN:.0f}",
        "MARGIN": f"{MARGIN:.0f}",
        "TITLE": title,
        "FILM": f"{height * len(screens):.1f}",
        "STILL": f"{height * (len(screens) - 1):.1f}",
        "SECONDS": f"{seconds_each * len(screens):.1f}",
        "COUNT": str(len(screens)),
    }
    code = _FORMAT
    for name, value in values.items():
        code = code.replace(name, value)
    return recorded.export_svg(title=title, code_format=code, theme=_THEME, unique_id="top").replace("&#160;", "\u00a0")
