"""AnswerProgress: how far an inference request got, and what that means for its status, its slot and its key."""

from __future__ import annotations

from app.entities.token_usage import TokenUsage
from app.errors import ClientDisconnected, ProxyError, UpstreamCrashed
from app.ports import EngineAnswer, WatchedClient
from app.routes.token_counting import tokens_of_key
from app.use_cases.scheduling.events import Ending
from app.use_cases.token_counts import Prompts


class AnswerProgress:
    """Written by the request's own thread alone (exchange.py)."""

    def __init__(self) -> None:
        self.client: WatchedClient | None = None
        self.prompts = Prompts()
        self.answer: EngineAnswer | None = None  # None while its model is loading
        self.is_sent = False  # to the engine, which may be working on it
        self.has_begun = False  # the server accepted the head of the answer
        self.is_complete = False  # the whole answer was sent
        self.failure: ProxyError | None = None  # after a stream had begun with progress

    @property
    def is_disconnected(self) -> bool:
        return self.client is not None and self.client.is_disconnected

    @property
    def final_status(self) -> int:
        """The status in log and metrics, which for an answer that was cut is not the one that was sent."""
        if self.is_complete and self.answer:
            return self.answer.status
        if failure := self.failure or (self.answer.failure if self.answer else None):
            return failure.status
        if not self.has_begun:
            return ProxyError.status
        return ClientDisconnected.status if self.is_disconnected else UpstreamCrashed.status

    @property
    def ending(self) -> Ending:
        """How much of its answer the request got, for the release of its slot."""
        if not self.is_sent:
            return Ending.NOT_SENT
        if self.is_complete:
            return Ending.COMPLETE
        is_stream = self.answer is not None and self.answer.is_stream
        return Ending.ABORTED_WHILE_STREAMING if is_stream else Ending.ABORTED_WHILE_SILENT

    @property
    def usage(self) -> TokenUsage:
        """The tokens of a whole answer, for log and metrics."""
        return self.answer.usage() if self.answer and self.is_complete else TokenUsage()

    def tokens_of_key(self, route: str) -> int:
        """What counts for the key. A request whose client leaves before the end counts too: each client could do so."""
        if not self.is_sent:
            return 0
        return tokens_of_key(route, self.prompts, self.answer, self.is_complete, self.is_disconnected)
