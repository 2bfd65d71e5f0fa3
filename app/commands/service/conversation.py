"""A conversation in the terminal, until /bye."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from app.commands.console import dim, write
from app.commands.service.chat import AnswerPrinter, Chat, Message, typed_message
from app.commands.service_client import NoServiceAnswer
from app.terminal.chat import AnswerFailed, summary
from app.terminal.text import printable, printable_lines, tokens_cell

PROMPT, CONTINUED, QUOTES = ">>> ", "... ", '"""'
HELP = """\
/clear   forget the conversation
/bye     end; so does Ctrl-D
/?       this list
Ctrl-C stops an answer. Text of several lines stands between two lines of \"\"\"."""


def converse(
    chat: Chat, printer: AnswerPrinter, beginning: Sequence[Message], images: Sequence[dict[str, Any]]
) -> None:
    """`images` go with the first message."""
    _note(f"{printable(chat.entry['id'])}, {tokens_cell(chat.entry.get('context_length'))} of context; /? for help")
    messages = list(beginning)
    for text in _inputs():
        if text == "/clear":
            messages = list(beginning)
            _note("forgotten")
        elif text == "/?" or text.startswith("/"):
            _note(HELP if text == "/?" else f"no such command: {printable(text)}\n{HELP}")
        elif text:
            first = images if len(messages) == len(beginning) else ()
            messages = _after_answer(chat, printer, [*messages, typed_message(text, first)])


def _after_answer(chat: Chat, printer: AnswerPrinter, messages: list[Message]) -> list[Message]:
    """The conversation with the answer; without the last message if nothing came of it."""
    try:
        chat.ask(messages)
        problem = ""
    except KeyboardInterrupt:
        problem = "stopped"
    except (NoServiceAnswer, AnswerFailed) as failure:
        problem = printable_lines(str(failure))
    printer.end()
    _note(problem or summary(chat.answer))
    if not chat.answer.content:
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": chat.answer.content}]


def _inputs() -> Iterator[str]:
    """What the user types, until /bye or the end of the input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (`input` then has a history, and keys that edit)
    while True:
        try:
            text = _read(PROMPT).strip()
            if text.startswith(QUOTES):
                text = _quoted(text.removeprefix(QUOTES))
        except KeyboardInterrupt:
            _note("\nCtrl-D or /bye ends the conversation")
            continue
        except EOFError:
            click.echo(err=True)
            return
        if text == "/bye":
            return
        yield text


def _quoted(text: str) -> str:
    while not text.rstrip().endswith(QUOTES):
        text += "\n" + _read(CONTINUED)
    return text.rstrip().removesuffix(QUOTES).strip()


def _read(prompt: str) -> str:
    """The prompt is on stderr if stdout is no terminal: the answer alone is there."""
    if sys.stdout.isatty():
        return input(prompt)
    write(sys.stderr, prompt)
    return input()


def _note(text: str) -> None:
    click.echo(dim(text), err=True)
