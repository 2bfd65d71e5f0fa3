"""llama-server's own arguments, typed for one question about memory: `estimate FILE -ot exps=CPU -md DRAFT`, or the key
`args` of POST /plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from app.entities.launch import ModelOptions
from app.use_cases.launch.engine_options import (
    GROWING,
    IRRELEVANT_SWITCHES,
    IRRELEVANT_VALUES,
    NAMES_ANOTHER_MODEL,
    OTHER_MACHINES,
    PRESETS,
    REPACKING,
    UNMEASURED_SWITCHES,
    UNMEASURED_VALUES,
)
from app.use_cases.launch.parsed_args import COMPANIONS, READ_SWITCHES, READ_VALUES, read_option, with_arguments

_PROJECTOR_OFF = frozenset({"--no-mmproj", "--no-mmproj-auto"})
DEVICE_LISTS = frozenset({"--device", "-dev"})
_SWITCHES = READ_SWITCHES | _PROJECTOR_OFF | {"--mmproj-auto"} | UNMEASURED_SWITCHES | REPACKING | IRRELEVANT_SWITCHES
_VALUES = READ_VALUES | COMPANIONS | DEVICE_LISTS | UNMEASURED_VALUES | GROWING | IRRELEVANT_VALUES
PATTERNS = frozenset({"--override-tensor", "-ot", "--spec-draft-override-tensor", "--override-tensor-draft", "-otd"})
_REFUSED = NAMES_ANOTHER_MODEL | PRESETS | {OTHER_MACHINES}
_DESCRIPTIVE_KEYS = ("general.", "tokenizer.")  # of --override-kv: nothing is allocated by them


class WrongArgument(ValueError):
    """It is none of llama-server's, or not one that a question about memory can have."""


@dataclass(frozen=True, slots=True)
class TypedArguments:
    """Options and their values, in the order in which they were typed."""

    pairs: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """As they are passed to llama-server."""
        return tuple(word for option, value in self.pairs for word in (option, value) if word)

    @property
    def has_projector(self) -> bool:
        return not self.names & _PROJECTOR_OFF

    @property
    def names(self) -> frozenset[str]:
        return frozenset(option for option, _ in self.pairs)

    def applied(self, options: ModelOptions) -> ModelOptions:
        """The options, overridden by these."""
        chosen = with_arguments(options, self.pairs)
        for option, value in self.pairs:
            if option in DEVICE_LISTS:
                chosen = replace(chosen, devices=0 if value == "none" else len(value.split(",")))
        return replace(chosen, unmeasured=(*options.unmeasured, *_unmeasured(self.pairs)))


def canonical(word: str) -> str:
    """An option as llama-server knows it, without `=VALUE`: --ctx_size is --ctx-size."""
    return word.partition("=")[0].replace("_", "-") if word.startswith("--") else word


def is_argument(word: str) -> bool:
    """Whether this is an option of llama-server's."""
    return canonical(word) in _SWITCHES | _VALUES | _REFUSED


def takes_value(word: str) -> bool:
    """Whether the next word is this argument's value."""
    return canonical(word) not in _SWITCHES | PRESETS and not _inline(word)


def read_arguments(words: Sequence[str]) -> TypedArguments:
    """Raises WrongArgument."""
    pairs, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name = canonical(word)
        _check(name, word)
        if name in _SWITCHES:
            pairs.append((name, ""))
            continue
        if not _inline(word) and not rest:
            raise WrongArgument(f"{name} needs a value")
        value = word.partition("=")[2] if _inline(word) else rest.pop(0)
        _check_value(name, value)
        pairs.append((name, value))
    return TypedArguments(tuple(pairs), tuple(_notes(pairs)))


def _inline(word: str) -> bool:
    return word.startswith("--") and "=" in word


def _check(name: str, word: str) -> None:
    if name in NAMES_ANOTHER_MODEL or name in PRESETS:
        raise WrongArgument(f"{name} names a model; only that of the question can be asked about")
    if name == OTHER_MACHINES:
        raise WrongArgument(f"{name}: the memory of other machines cannot be estimated")
    if name not in _SWITCHES and name not in _VALUES:
        raise WrongArgument(f"{word[:100]!r} is not an option of llama-server")
    if name in _SWITCHES and _inline(word):
        raise WrongArgument(f"{name} takes no value")


def _check_value(name: str, value: str) -> None:
    try:
        read_option(name, value)
    except ValueError:
        form = " (PATTERN=BUFFER,..., such as exps=CPU or attn=CUDA1)" if name in PATTERNS else ""
        raise WrongArgument(f"{name} does not take {value[:100]!r}{form}") from None


def _unmeasured(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    for option, value in pairs:
        is_text = option == "--override-kv" and value.startswith(_DESCRIPTIVE_KEYS)
        if option in UNMEASURED_SWITCHES | UNMEASURED_VALUES and not is_text:
            yield option


def _notes(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    names = list(dict.fromkeys(option for option, _ in pairs))
    if growing := [name for name in names if name in GROWING]:
        yield f"{', '.join(growing)}: what is collected in RAM during requests is not included"
    if REPACKING.intersection(names):
        yield "with or without repacked copies the same is booked: the kernel can drop what they replace of the file"
    if nothing := [name for name in names if name in IRRELEVANT_SWITCHES | IRRELEVANT_VALUES]:
        yield f"no effect on memory: {', '.join(nothing)}"
