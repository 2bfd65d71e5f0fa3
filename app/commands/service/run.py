"""The command `run`: chat with a model in the terminal."""

from __future__ import annotations

import base64
import mimetypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.commands.console import dim, json_option, print_json
from app.commands.options import INTERRUPTED, exit_no, exit_wrong_use
from app.commands.service.chat import AnswerPrinter, Chat, Message, typed_message
from app.commands.service.conversation import converse
from app.commands.service.model_names import find_entry, model_argument
from app.commands.service_client import NoServiceAnswer, exit_without_answer, url_option
from app.terminal.chat import AnswerFailed, answer_json, summary
from app.terminal.text import printable


@click.command("run")
@model_argument
@click.argument("prompt", nargs=-1)
@click.option("--system", help="System prompt.")
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Picture to send along, if the model sees. May be repeated.",
)
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer.  [default: until the model ends it]")
@url_option
@json_option
def run_command(
    model: str,
    prompt: tuple[str, ...],
    system: str | None,
    images: tuple[Path, ...],
    max_tokens: int | None,
    url: str,
    as_json: bool,
) -> None:
    """Chat with MODEL in the terminal, or answer PROMPT and end.

    Text from a pipe is put before PROMPT. stdout has nothing but the answer; on a terminal, stderr has the progress of
    the load, the model's reasoning, and at the end what it took. Ctrl-C stops the answer.

    \b
    llama-smart-proxy run qwen3-8b "One line about the sea."
    git diff | llama-smart-proxy run qwen3-8b "Write a commit message." > message
    llama-smart-proxy run qwen3-8b

    \b
    --json prints {"model", "content", "reasoning", "finish_reason", "prompt_tokens", "completion_tokens",
                   "tokens_per_second", "first_token_seconds", "load_seconds"}
    """
    text = _whole_prompt(prompt)
    if as_json and not text:
        exit_wrong_use("--json needs a PROMPT")
    entry = find_entry(url, model)
    _exit_unless_suitable(entry, images)
    printer = AnswerPrinter()
    chat = Chat(url, entry, max_tokens, (lambda chunk: None) if as_json else printer.show)
    beginning: list[Message] = [{"role": "system", "content": system}] if system else []
    if not text:
        converse(chat, printer, beginning, [_image_part(path) for path in images])
        return
    _answer(chat, printer, [*beginning, typed_message(text, [_image_part(path) for path in images])])
    if as_json:
        print_json(answer_json(entry["id"], chat.answer))
    elif sys.stderr.isatty():
        click.echo(dim(summary(chat.answer)), err=True)


def _whole_prompt(words: Sequence[str]) -> str:
    """ "" for a conversation. The end of a pipe without text is a mistake, not a conversation."""
    typed = " ".join(words)
    if sys.stdin.isatty():
        return typed
    piped = sys.stdin.read().strip()
    if not piped and not typed:
        exit_wrong_use("nothing to ask: stdin is empty, and there is no PROMPT")
    return "\n\n".join(filter(None, (piped, typed)))


def _exit_unless_suitable(entry: dict[str, Any], images: Sequence[Path]) -> None:
    """A model whose header has not been read yet lists no capabilities: let the engine decide."""
    name, capabilities = printable(entry["id"]), entry.get("capabilities") or ["completion", "vision"]
    if "completion" not in capabilities:
        why = (entry.get("status") or {}).get("message") or f"it can {', '.join(capabilities)}"
        exit_no(f"{name} generates no text: {why}")
    if images and "vision" not in capabilities:
        exit_no(f"{name} does not see pictures: --image needs a model with `vision`")


def _image_part(path: Path) -> dict[str, Any]:
    kind = mimetypes.guess_type(path)[0] or "image/jpeg"
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}


def _answer(chat: Chat, printer: AnswerPrinter, messages: Sequence[Message]) -> None:
    with exit_without_answer():
        try:
            chat.ask(messages)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except AnswerFailed as failure:
            raise NoServiceAnswer(str(failure)) from failure
        finally:
            printer.end()
