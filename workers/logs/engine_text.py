"""What is kept of an engine's lines: none about our own probes, and no text of requests and answers.

llama.cpp logs prompts and answers at its debug level only: with xllamacpp 2026.10.11549 neither is logged at
verbosities up to 4, at 5 both are, on lines of level D. But at any verbosity some lines quote the request: errors
repeat the end of invalid JSON, grammars are printed over several lines, and names of samplers are in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LEVEL = re.compile(r"(?:[\d.]+ )?([A-Z]) ")
_TIME_AND_LEVEL = re.compile(r"[\d.]+ [A-Z] ")  # a level alone may be a word of a quoted text: "I am", "A ::= b"
_PROBE = re.compile(r"request: GET /(?:health|props|slots|metrics)(?:[ ?]|$)")
_IDLE = "update_slots: all slots are idle"  # after each request, our readings of its metrics among them
_NO_KEY = "unauthorized: Invalid API Key"  # also before it is ready, when we check that it requires its key
_CHILD_PROTOCOL = "cmd_child_to_router:"
_MESSAGE = re.compile(r'(got exception|llg error): (?:.*?"code":(\d{3}))?')
_QUOTED = re.compile(r"'[^']*'?|\"[^\"]*\"?|`[^`]*`?")
_TYPE = re.compile(r"'(?:std|nlohmann)::[\w:]+'")  # of an exception that nobody caught
# How lines without time and level begin that are no continuation of a quoted text: those of older builds, and those
# that ggml, the C++ runtime and the dynamic linker print as the process ends.
_KNOWN_HEAD = re.compile(
    r"(?:[A-Z] )?(?:(?:srv|slot|que|res|main|init|request|build|system_info)\b(?! *::=)|"
    r"\w*(?:llama|ggml|gguf|common|clip|mtmd|server|cuda)\w*:(?!:=)|"
    r"\S+\.\w{1,4}:\d+: |GGML_|CUDA |ROCm |  (?:current device|err)\b|terminate |  what\(\)|\S*: error while loading )"
)
# What gdb, lldb or backtrace_symbols print when llama.cpp aborts (ggml.c, ggml_print_backtrace), unless
# GGML_NO_BACKTRACE is set.
_BACKTRACE = re.compile(
    r"#\d+ |\[(?:New LWP|Thread debugging|Inferior|Switching to|Detaching)|Using host libthread_db|This GDB |"
    r"Enable debuginfod|Debuginfod |To make this setting|\s*<https?://|warning: |\d+\t|0x[0-9a-f]+ in |"
    r"__?\w+ \(.*\) (?:at|from) |ptrace: |Could not attach|Missing separate debug|Downloading |Reading symbols|"
    r"\(lldb\)|Process \d+ |Executable |Architecture |\s*\*? ?(?:thread|frame) #\d+|\S*\([^()\s]*\+0x[0-9a-f]+\) ?\[0x|"
    r"WARNING: (?:Using native backtrace|GGML_BACKTRACE)|(?:See|Set) .*(?:BACKTRACE|llama\.cpp/pull)"
)
_ABORT = re.compile(r"GGML_ASSERT|GGML_ABORT|^terminate called|CUDA error|fatal error|ggml_abort")


def is_debug_line(text: str) -> bool:
    """Whether the engine logs at its debug level, at which it logs prompts and answers."""
    level = _LEVEL.match(text)
    return level is not None and level[1] == "D"


def is_idle_line(text: str) -> bool:
    return text.endswith(_IDLE)


def is_abort(text: str) -> bool:
    """Whether the process ends with this line: a backtrace may follow it."""
    return bool(_ABORT.search(text))


def without_backtrace(lines: Iterable[str]) -> list[str]:
    """The lines without a debugger's: those of the process itself."""
    return [line for line in lines if not _BACKTRACE.match(line)]


def kept_text(text: str, may_quote: bool, has_aborted: bool = False) -> str | None:
    """The line without what it quotes of a request; None if nothing of it is kept.

    `may_quote`: the engine has had requests. `has_aborted`: lines without a level are a backtrace."""
    if _PROBE.search(text) or text.startswith(_CHILD_PROTOCOL) or not text.strip():
        return None
    if found := _MESSAGE.search(text):
        code = f"status {found[2]}; " if found[2] else ""
        return f"{text[: found.start()]}{found[1]}: ({code}its message may quote the request and is not kept)"
    if not may_quote:
        return None if text.endswith(_NO_KEY) else text
    if not (_TIME_AND_LEVEL.match(text) or has_aborted or _KNOWN_HEAD.match(text)):
        return None
    return _QUOTED.sub(lambda quoted: quoted[0] if _TYPE.fullmatch(quoted[0]) else "'...'", text)
