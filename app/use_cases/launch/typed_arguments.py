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
)
from app.use_cases.launch.known_options import (
    DEVICE_LISTS,
    KNOWN_SWITCHES,
    KNOWN_VALUES,
    PROJECTOR_OFF,
    canonical,
    is_unmeasured,
)
from app.use_cases.launch.parsed_args import read_option, with_arguments

PATTERNS = frozenset({"--override-tensor", "-ot", "--spec-draft-override-tensor", "--override-tensor-draft", "-otd"})
_REFUSED = NAMES_ANOTHER_MODEL | PRESETS | {OTHER_MACHINES}


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
        return not self.names & PROJECTOR_OFF

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


def is_argument(word: str) -> bool:
    """Whether this is an option of llama-server's."""
    return canonical(word) in KNOWN_SWITCHES | KNOWN_VALUES | _REFUSED


def takes_value(word: str) -> bool:
    """Whether the next word is this argument's value."""
    return canonical(word) not in KNOWN_SWITCHES | PRESETS and not _inline(word)


def read_arguments(words: Sequence[str]) -> TypedArguments:
    """Raises WrongArgument."""
    pairs, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name = canonical(word)
        _check(name, word)
        if name in KNOWN_SWITCHES:
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
    if name not in KNOWN_SWITCHES and name not in KNOWN_VALUES:
        raise WrongArgument(f"{word[:100]!r} is not an option of llama-server")
    if name in KNOWN_SWITCHES and _inline(word):
        raise WrongArgument(f"{name} takes no value")


def _check_value(name: str, value: str) -> None:
    try:
        read_option(name, value)
    except ValueError:
        form = " (PATTERN=BUFFER,..., such as exps=CPU or attn=CUDA1)" if name in PATTERNS else ""
        raise WrongArgument(f"{name} does not take {value[:100]!r}{form}") from None


def _unmeasured(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    for option, value in pairs:
        if is_unmeasured(option, value):
            yield option


def _notes(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    names = list(dict.fromkeys(option for option, _ in pairs))
    if growing := [name for name in names if name in GROWING]:
        yield f"{', '.join(growing)}: what is collected in RAM during requests is not included"
    if REPACKING.intersection(names):
        yield "repacked copies are booked instead of what they replace of the file, which the kernel can drop"
    if nothing := [name for name in names if name in IRRELEVANT_SWITCHES | IRRELEVANT_VALUES]:
        yield f"no effect on memory: {', '.join(nothing)}"
