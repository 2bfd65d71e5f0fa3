"""A line of a log, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.terminal.text import printable_lines


def log_line(line: Mapping[str, Any]) -> str:
    """`line`: of GET /logs?format=json. An engine may have logged any character; a terminal must not obey it."""
    at = datetime.fromtimestamp(line["at"]).isoformat(" ", "milliseconds")
    server = f" [{line['server']}]" if line["server"] else ""
    return printable_lines(f"{at}{server} {line['text']}")
