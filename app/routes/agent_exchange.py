"""Chat requests with agents: functions that change a request, or answer it, before anything else happens to it.

They run in the request's thread, one after the other, in the order of their commands (docs/agents.md).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from app.entities.model import Model
from app.errors import AgentFailed, RequestTooLarge
from app.ports import BodyFile, Lease, RequestBody, WatchedClient
from app.request_body.buffer import Buffer
from app.request_body.commands import commands_in
from app.routes.exchange import Exchange, respond
from app.routes.incoming_request import IncomingRequest
from app.routes.own_answer import OwnAnswer
from app.routes.requested_model import RequestOptions, read_request

log = logging.getLogger(__name__)

TOO_LARGE = "agents take requests of up to 256 KiB; send less, or send it without /{}"


def respond_to_chat(request: IncomingRequest, route: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a chat request, as a WSGI application."""
    return respond(request, route, start_response, AgentExchange if request.settings.agents else None)


class AgentExchange(Exchange):
    """Used by its request's own thread alone."""

    def _read_request(self) -> None:
        super()._read_request()
        if self.body is None or not len(self.body):
            return
        known = self.request.settings.agents
        if commands := self.body.read(partial(commands_in, known=frozenset(known))):
            self._ask_agents(self.body, commands)

    def _ask_agents(self, body: RequestBody, names: Iterable[str]) -> None:
        """Ask each; the first answer ends it. What they make of the request is read, and checked, like a client's."""
        for name in names:
            if isinstance(body.data, BodyFile):
                raise RequestTooLarge(TOO_LARGE.format(name))
            result = _result(name, self.request.settings.agents[name], body.data)
            if result is None:
                continue
            if "choices" in result:
                self.answer = _answer(_encoded(name, _completion(name, result, self.options)), self.options.streams)
                return
            new = _encoded(name, result)
            body.rewrite(partial(_replaced, new))
            self.options = read_request(self.request, body)

    def _wait_for_slot(self, model: Model, client: WatchedClient) -> Lease | None:
        """None, with the answer made, if an agent has answered."""
        return None if self.answer is not None else super()._wait_for_slot(model, client)


def _replaced(new: bytes, body: Buffer) -> tuple[bytes, None]:
    return new, None


def _result(name: str, agent: Callable[[dict[str, Any]], Any], data: bytes) -> Mapping[str, Any] | None:
    """What an agent returns: a changed request, an answer, or None. Raises AgentFailed."""
    try:
        result = agent(json.loads(data))
    except Exception as error:  # whatever it raises
        log.exception("agent %s failed", name)
        raise AgentFailed(f"agent {name} failed: {type(error).__name__}; the log has its traceback") from error
    if result is not None and not isinstance(result, Mapping):
        raise AgentFailed(f"agent {name} returned {type(result).__name__} instead of a request or an answer")
    return result


def _encoded(name: str, value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise AgentFailed(f"agent {name} returned a value that is not JSON: {error}") from error


def _completion(name: str, answer: Mapping[str, Any], options: RequestOptions) -> dict[str, Any]:
    """An agent's answer with what it may leave out; for a stream, as its only chunk."""
    now = int(time.time())
    try:
        choices = [{"index": 0, "finish_reason": "stop", **choice} for choice in answer["choices"]]
    except TypeError as error:
        raise AgentFailed(f"agent {name} returned choices that are not a list of objects") from error
    whole = {"id": f"chatcmpl-{now}", "object": "chat.completion", "created": now, "model": options.model, **answer}
    if not options.streams:
        return whole | {"choices": choices}
    return whole | {"object": "chat.completion.chunk", "choices": [_delta(choice) for choice in choices]}


def _answer(completion: bytes, is_stream: bool) -> OwnAnswer:
    """`completion`: JSON of a whole one or, for a stream, of a chunk."""
    if not is_stream:
        return OwnAnswer(completion, "application/json")
    return OwnAnswer(b"data: " + completion + b"\n\ndata: [DONE]\n\n", "text/event-stream", is_stream=True)


def _delta(choice: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in choice.items() if name != "message"}
    return {**rest, "delta": choice.get("message", {})}
