"""The options of llama-server that are known here, and those in `args` that may change the memory in an unknown way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from app.use_cases.launch.engine_options import (
    GROWING,
    IRRELEVANT_SWITCHES,
    IRRELEVANT_VALUES,
    REPACKING,
    UNMEASURED_SWITCHES,
    UNMEASURED_VALUES,
)
from app.use_cases.launch.parsed_args import COMPANIONS, READ_SWITCHES, READ_VALUES

PROJECTOR_OFF = frozenset({"--no-mmproj", "--no-mmproj-auto"})
DEVICE_LISTS = frozenset({"--device", "-dev"})
KNOWN_SWITCHES = (
    READ_SWITCHES | PROJECTOR_OFF | {"--mmproj-auto"} | UNMEASURED_SWITCHES | REPACKING | IRRELEVANT_SWITCHES
)
KNOWN_VALUES = READ_VALUES | COMPANIONS | DEVICE_LISTS | UNMEASURED_VALUES | GROWING | IRRELEVANT_VALUES
_DESCRIPTIVE_KEYS = ("general.", "tokenizer.")  # of --override-kv: nothing is allocated by them
_NUMBER = re.compile(r"-[0-9.]+")


def canonical(word: str) -> str:
    """An option as llama-server knows it, without `=VALUE`: --ctx_size is --ctx-size."""
    return word.partition("=")[0].replace("_", "-") if word.startswith("--") else word


def unknown_options(args: Sequence[str]) -> tuple[str, ...]:
    """The options that are newer than what is known here, or none of llama-server's."""
    found = (option for option, _ in options_with_values(args) if option not in KNOWN_SWITCHES | KNOWN_VALUES)
    return tuple(dict.fromkeys(found))


def unmeasured_options(args: Sequence[str]) -> tuple[str, ...]:
    """The options whose effect on memory is not known."""
    pairs = list(options_with_values(args))
    found = (option for option, value in pairs if is_unmeasured(option, value))
    return tuple(dict.fromkeys((*found, *unknown_options(args))))


def is_unmeasured(option: str, value: str) -> bool:
    is_text = option == "--override-kv" and value.startswith(_DESCRIPTIVE_KEYS)
    return option in UNMEASURED_SWITCHES | UNMEASURED_VALUES and not is_text


def options_with_values(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options, each with its value, "" for a switch. What follows an unknown option is its value, unless it looks
    like another option."""
    rest = list(args)
    while rest:
        word = rest.pop(0)
        option = canonical(word)
        if not word.startswith("-") or _NUMBER.fullmatch(word):
            continue
        if option == word and option in KNOWN_VALUES and rest:
            yield option, rest.pop(0)
        else:
            yield option, word.partition("=")[2] if word.startswith("--") else ""
