"""Whether a llama-server is started with a verbosity at which it logs prompts and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.entities.launch import EngineFacts, EngineKind

_SWITCHES = {"-v", "--verbose", "--log-verbose"}
_OPTIONS = {"-lv", "--verbosity", "--log-verbosity"}
_VARIABLES = ("LLAMA_ARG_LOG_VERBOSITY", "LLAMA_LOG_VERBOSITY")
_DEBUG = 5.0  # common/log.h of builds with --log-jsonl (b11434): 4 is trace, 5 debug


def logs_prompts(argv: Sequence[str], env: Mapping[str, str], engine: EngineFacts) -> bool:
    """By the complete command line and environment. Builds without --log-jsonl count as soon as any verbosity is set:
    prompts begin at 4 in some (LOG_LEVEL_DEBUG of b7000) and at 1 in older ones."""
    level = _verbosity(argv, env)
    has_five_levels = "--log-jsonl" in engine.flags or engine.kind is EngineKind.EMBEDDED
    return level >= _DEBUG if has_five_levels else level > 0


def _verbosity(argv: Sequence[str], env: Mapping[str, str]) -> float:
    """The last one on the command line, else that of the environment, else 0."""
    level = next((_number(env[name]) for name in _VARIABLES if name in env), 0.0)
    for word, value in zip(argv, (*argv[1:], ""), strict=True):
        option = word.replace("_", "-")
        if option in _SWITCHES:
            level = float("inf")
        elif option in _OPTIONS:
            level = _number(value)
    return level


def _number(text: str) -> float:
    """What cannot be read counts as the highest."""
    try:
        return float(text)
    except ValueError:
        return float("inf")
