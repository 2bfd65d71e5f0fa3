"""A command that takes llama-server's own options beside those it declares, in every spelling of llama-server's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from app.use_cases.launch.known_options import canonical
from app.use_cases.launch.typed_arguments import (
    TypedArguments,
    WrongArgument,
    is_argument,
    read_arguments,
    takes_value,
)

_KEY = f"{__name__}.arguments"


class EngineOptionsCommand(click.Command):
    """Sets aside the options of llama-server's that the command does not declare; `typed_arguments` returns them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, engine = _sorted(args, {name: _takes_value(param) for param in self.params for name in param.opts})
        try:
            ctx.meta[_KEY] = read_arguments(engine)
        except WrongArgument as error:
            raise click.UsageError(str(error), ctx) from error
        return super().parse_args(ctx, own)


def typed_arguments() -> TypedArguments:
    """Those of the command that runs."""
    found: TypedArguments = click.get_current_context().meta[_KEY]
    return found


def _takes_value(param: Any) -> bool:
    return isinstance(param, click.Option) and not param.is_flag


def _sorted(args: list[str], declared: dict[str, bool]) -> tuple[list[str], list[str]]:
    """The words for the command, and those for llama-server, each option with its value."""
    own: list[str] = []
    engine: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return [*own, word, *words], engine
        name = canonical(word)
        if name in declared:
            own.append(name + word[len(name) :])
            own += _value(words, declared[name] and "=" not in word)
        elif is_argument(word):
            engine.append(word)
            engine += _value(words, takes_value(word))
        else:
            own.append(word)
    return own, engine


def _value(words: Iterator[str], is_next: bool) -> list[str]:
    value = next(words, None) if is_next else None
    return [] if value is None else [value]
