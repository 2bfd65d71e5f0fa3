"""One question to a model, whose answer is printed as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from app.commands.console import dim, write
from app.commands.service.model_names import served_names
from app.commands.service.status_line import StatusLine
from app.commands.service_client import NoServiceAnswer, open_answer, pieces_of, read_answer
from app.terminal.chat import DONE, ChatAnswer, Chunk, extended, parse_chunk
from app.terminal.events import COMMENT, server_events
from app.terminal.loading import loading_text
from app.terminal.text import printable_answer

if TYPE_CHECKING:
    from requests import Response

WAIT_HEADER = "x-llama-smart-proxy-wait-ms"

Message = dict[str, Any]


@dataclass(slots=True)
class Chat:
    """A model to talk to. `answer` is the last one, or what has come of it: written by `ask` alone."""

    url: str
    entry: dict[str, Any]  # of GET /v1/models/ID
    max_tokens: int | None
    show: Callable[[Chunk], None]
    answer: ChatAnswer = field(default_factory=ChatAnswer)

    def ask(self, messages: Sequence[Message]) -> None:
        """Raises NoServiceAnswer and AnswerFailed."""
        body: dict[str, Any] = {"model": self.entry["id"], "messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        if self.max_tokens:
            body["max_tokens"] = self.max_tokens
        self.answer, sent_at = ChatAnswer(), time.monotonic()
        progress = partial(loading_text, models=served_names(self.entry))
        posted = open_answer(self.url, "POST", "/v1/chat/completions", body)
        with StatusLine(self.url, progress) as line, posted as response:
            if response.status_code != 200:
                raise NoServiceAnswer(read_answer(response, self.url).error)
            for chunk, load_seconds in _chunks(response, sent_at):
                line.close()
                self.answer = extended(self.answer, chunk, time.monotonic() - sent_at, load_seconds)
                self.show(chunk)


def _chunks(response: Response, sent_at: float) -> Iterator[tuple[Chunk, float]]:
    """With each chunk, how many seconds after `sent_at` the load was over."""
    load_seconds = int(response.headers.get(WAIT_HEADER, 0)) / 1000
    for event in server_events(pieces_of(response)):
        if event.kind == COMMENT:
            load_seconds = time.monotonic() - sent_at
        elif event.data != DONE:
            yield parse_chunk(event.data), load_seconds


def typed_message(text: str, images: Sequence[dict[str, Any]]) -> Message:
    return {"role": "user", "content": [*images, {"type": "text", "text": text}] if images else text}


class AnswerPrinter:
    """Prints the answer to stdout, and to stderr, dimmed, the reasoning, if both are terminals."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._shows_reasoning = self._is_terminal and sys.stderr.isatty()
        self._is_reasoning = False
        self._ends_line = True

    def show(self, chunk: Chunk) -> None:
        if chunk.reasoning and self._shows_reasoning:
            self._write_reasoning(printable_answer(chunk.reasoning))
        if chunk.content:
            self._end_reasoning()
            self._ends_line = chunk.content.endswith("\n")
            write(sys.stdout, printable_answer(chunk.content) if self._is_terminal else chunk.content)

    def end(self) -> None:
        """The line is ended, unless the answer did that."""
        self._end_reasoning()
        if not self._ends_line:
            write(sys.stdout, "\n")
        self._ends_line = True

    def _write_reasoning(self, text: str) -> None:
        self._is_reasoning = True
        write(sys.stderr, dim(text))

    def _end_reasoning(self) -> None:
        if self._is_reasoning:
            write(sys.stderr, "\n\n")
        self._is_reasoning = False
