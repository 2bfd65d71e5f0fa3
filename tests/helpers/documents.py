"""Blocks of code in the README and the pages of docs/, and which of them are commands that a test runs.

A block of commands without a mark is run (`tests/extra/test_documented_commands.py`) and must succeed. A comment on
the line before it, which readers do not see, says otherwise, with the reason:

    <!-- not run: needs a GPU -->
    <!-- fails: there is no such model -->
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COMMANDS = {"bash", "console", "python", "sh"}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (not run|fails): (\S.*?) -->\n+$")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    mark: str = ""  # "", "not run" or "fails"

    @property
    def script(self) -> str:
        """What is to be run: of a `console` block the lines after `$ `, with those that continue them."""
        if self.language != "console":
            return self.text
        return "".join(re.findall(r"^\$ ((?:.*\\\n)*.*\n)", self.text, re.MULTILINE))

    def run(self, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Runs it in `folder`, which is also its home; the service at `url` is the one at port 8080 of the examples."""
        script = re.sub(r"(?:127\.0\.0\.1|localhost):8080", url.removeprefix("http://"), self.script)
        program = [sys.executable, "-c"] if self.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        (folder / ".curlrc").write_text("fail-with-body\nmax-time = 60\n")  # an error's status is a failed command
        env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LLAMA_SMART_PROXY_URL": url,
            "LLAMA_SMART_PROXY_CONFIG": str(folder / "config.yaml"),
            "LLAMA_SMART_PROXY_GPU__ENABLED": "false",
            "KEY": "none",
        }
        where = {"cwd": folder, "env": env, "stdin": subprocess.DEVNULL}
        return subprocess.run([*program, script], **where, capture_output=True, text=True, timeout=100)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [block_at(found, text, str(page.relative_to(ROOT))) for found in FENCE.finditer(text)]


def block_at(found: re.Match[str], text: str, page: str) -> Block:
    before = text[: found.start()]
    mark = MARK.search(before)
    return Block(page, before.count("\n") + 1, found[2], found[3], mark[1] if mark else "")


def commands() -> list[Block]:
    """All that a test runs."""
    blocks = [block for page in pages() for block in blocks_of(page)]
    return [block for block in blocks if block.language in COMMANDS and block.mark != "not run"]


def code_without_a_language(page: Path) -> list[str]:
    """Lines of blocks that are not fenced, or whose fence names no language: a command could hide there."""
    text = page.read_text()
    unnamed = [f"{block.page}:{block.line}" for block in blocks_of(page) if not block.language]
    rest = FENCE.sub("", text)
    indented = [line for line in re.findall(r"\n\n( {4}\S.*)", rest) if not in_a_list(line, rest)]
    return unnamed + [f"{page.name}: {line}" for line in indented]


def in_a_list(line: str, text: str) -> bool:
    """Whether the indented line continues an entry of a list."""
    above = text[: text.index(line)].rstrip().splitlines()
    return bool(above) and bool(re.match(r" *(?:[-*]|\d+\.) |  +\S", above[-1]))
