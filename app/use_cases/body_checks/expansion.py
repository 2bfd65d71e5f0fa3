"""Expansion: how much a grammar or pattern grows when the engine writes its repetitions out.

llama.cpp copies what is repeated: `"ab"{3}` becomes six elements, and a group's count multiplies those within it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# One piece of a regular expression or of GBNF: an escape, a class, a repetition, or anything else. Only GBNF has
# literals, words (names of rules, which stand for one element), space and comments.
_CLASS = r"\[(?:[^\]\\]|\\.)*+\]?"
_COUNT = r"\{\s*+(\d*+)\s*+(?:,\s*+(\d*+)\s*+)?\}"
_PATTERN = re.compile(rf"\\.|{_CLASS}|{_COUNT}|.", re.DOTALL)
_GRAMMAR = re.compile(rf'"(?:[^"\\]|\\.)*+"?|#[^\n]*+|\s++|[\w-]++|\\.|{_CLASS}|{_COUNT}|.', re.DOTALL)
_ENOUGH = 10**9  # longer numbers count as this
_MAY_BE_EMPTY = ("*", "?")


@dataclass(frozen=True, slots=True)
class Expansion:
    """`elements`: characters and references, repetitions written out. `optional`: those among them that may be left
    out, each of which doubles what the engine has to follow. `depth`: of parentheses."""

    elements: int
    optional: int
    depth: int


def expand_pattern(pattern: str) -> Expansion:
    """Of a regular expression, as in a schema's `pattern`."""
    return _expand(_PATTERN, pattern)


def expand_grammar(grammar: str) -> Expansion:
    """Of a grammar in GBNF."""
    return _expand(_GRAMMAR, grammar)


def _expand(pieces: re.Pattern[str], text: str) -> Expansion:
    """Keeps, for each open parenthesis, the sums so far and what the last piece added: a repetition multiplies it."""
    elements, optional, last, last_optional = 0, 0, 0, 0
    open_groups: list[tuple[int, int]] = []
    depth = 0
    for found in pieces.finditer(text):
        piece = found[0]
        if piece == "(":
            open_groups.append((elements, optional))
            depth = max(depth, len(open_groups))
            last = last_optional = 0
        elif piece == ")" and open_groups:
            before, optional_before = open_groups.pop()
            last, last_optional = elements - before, optional - optional_before
        elif piece in _MAY_BE_EMPTY:
            optional += 1
        elif found.lastindex:
            fewest, most = _number(found[1]), max(_number(found[1]), _number(found[2]))
            elements += last * (max(most, 1) - 1)
            optional += last_optional * (max(most, 1) - 1) + (fewest == 0)
        elif not piece.isspace() and not (pieces is _GRAMMAR and piece.startswith("#")):
            last, last_optional = _size(pieces, piece), 0
            elements += last
    return Expansion(elements, optional, depth)


def _size(pieces: re.Pattern[str], piece: str) -> int:
    """A word of GBNF is a reference, and so is what a converted pattern repeats."""
    is_reference = pieces is _PATTERN or piece[0].isalnum() or piece[0] in "_-"
    return 1 if is_reference else len(piece)


def _number(digits: str | None) -> int:
    return min(int(digits[:10] or 0), _ENOUGH) if digits else 0
