"""What a PromQL expression refers to: metrics, labels, and the label values it compares with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

STRING = r'"(?:[^"\\]|\\.)*"'
TOKEN = re.compile(rf"{STRING}|\$?[A-Za-z_:][\w:]*|\[[^\]]*\]|\d[\w.]*|=~|!~|!=|[^\s]")
NAME = re.compile(r"[A-Za-z_:][\w:]*$")
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OPERATORS = {"and", "or", "unless", "bool", "offset"}


@dataclass(frozen=True)
class Reference:
    """A selector of series, or (with the metric "") a list of labels to group by."""

    metric: str
    labels: frozenset[str]
    values: frozenset[tuple[str, str]] = frozenset()  # label and value, of = and !=, and of =~ and !~ without wildcards


def references(expression: str) -> Iterator[Reference]:
    tokens = TOKEN.findall(expression)
    for at, token in enumerate(tokens):
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        if token in GROUPING and following == "(":
            yield Reference("", frozenset(filter(NAME.match, _until(")", tokens[at + 2 :]))))
        elif (
            NAME.match(token)
            and following not in ("(", "by", "without")
            and token not in OPERATORS
            and not _is_label(tokens, at)
        ):
            yield _selector(token, _until("}", tokens[at + 2 :]) if following == "{" else [])


def _selector(metric: str, matchers: list[str]) -> Reference:
    labels = {name for name, operator in pairwise(matchers) if operator in ("=", "!=", "=~", "!~")}
    values = {
        (name, value)
        for name, _, text in zip(matchers, matchers[1:], matchers[2:], strict=False)
        if name in labels and "$" not in text and "*" not in text
        for value in text.strip('"').split("|")
    }
    return Reference(metric, frozenset(labels), frozenset(values))


def _is_label(tokens: list[str], at: int) -> bool:
    """Whether it stands between braces, or between the parentheses of a grouping."""
    opened: list[bool] = []
    for number, token in enumerate(tokens[:at]):
        if token in "({":
            opened.append(token == "{" or (number > 0 and tokens[number - 1] in GROUPING))
        elif token in ")}":
            opened.pop()
    return bool(opened) and opened[-1]


def _until(end: str, tokens: list[str]) -> list[str]:
    return tokens[: tokens.index(end)]
