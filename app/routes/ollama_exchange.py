"""Inference requests of Ollama's API: an exchange like any other, with its body and its answer translated.

From the translated body on, nothing differs from a request to llama-server's own route: options, checks, slot, tokens.
While its model loads, nothing is sent: Ollama's clients read every line as an object.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from app.entities.key import ApiKey
from app.entities.model import Model
from app.entities.server import ServerState
from app.errors import ErrorForm, InvalidRequest, NotAllowed
from app.ports import BodyFile, EngineAnswer, Lease, RequestBody, WatchedClient
from app.request_body.ollama_body import translated
from app.routes.authorization import may_unload
from app.routes.exchange import Exchange, respond
from app.routes.incoming_request import IncomingRequest
from app.routes.ollama_answer import Envelope, TranslatedAnswer, loaded_answer
from app.routes.own_answer import OwnAnswer
from app.routes.peer_exchange import Send
from app.use_cases.ollama.translation import Api, Translation
from app.use_cases.requirements import Requirements, lacks_thinking, missing_tools

log = logging.getLogger(__name__)

ENDING = (ServerState.DRAINING, ServerState.STOPPING)
MAX_NOTED = 200
NOT_IN_TEMPLATE = "its chat template has none; choose another model (`capabilities` in POST /api/show)"
_noted: set[str] = set()  # ignored options that were logged; any thread, and twice does no harm


def respond_to_ollama(request: IncomingRequest, route: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request to one of the routes of `Api`, as a WSGI application."""
    return respond(request, route, start_response, OllamaExchange)


class OllamaExchange(Exchange):
    """Used by its request's own thread alone."""

    translation: Translation  # since the body was received

    def _translate(self, body: RequestBody) -> None:
        self.translation = body.rewrite(partial(translated, api=Api(self.route)))
        self.engine_route = self.translation.path
        for option in self.translation.ignored:
            _note(option)

    @property
    def _may_wait_for_download(self) -> bool:
        return super()._may_wait_for_download and not self._is_unload

    @property
    def _requirements(self) -> Requirements:
        """Ollama rejects tools and thinking where the model does not know them."""
        requirements = super()._requirements
        return replace(requirements, tools=requirements.prefers_tools, thinking=self.translation.thinks)

    def _check_model(self, model: Model) -> None:
        super()._check_model(model)
        requirements = self._requirements
        if requirements.tools and missing_tools(model):
            raise InvalidRequest(f"{model.name} does not support tools: {NOT_IN_TEMPLATE}", "tools")
        if requirements.thinking and lacks_thinking(model):
            raise InvalidRequest(f"{model.name} does not support thinking: {NOT_IN_TEMPLATE}", "think")

    def _wait_for_slot(self, model: Model, client: WatchedClient) -> Lease | None:
        """None, with the answer made, for a request to unload a model that is not loaded, or is being unloaded."""
        if self._is_unload:
            if (server := self._server()) is None or server.state in ENDING:
                self.answer = self._loaded()
                return None
            if not may_unload(self.request):
                raise NotAllowed(_reason(self.request.key))
        return super()._wait_for_slot(model, client)

    def _ask(self, data: bytes | BodyFile, send: Send) -> EngineAnswer:
        if not self.translation.path:
            return self._loaded()
        request = replace(self.request.for_engine(data), target=self.translation.path, error_form=ErrorForm.OPENAI)
        answer = send(request)
        try:
            return TranslatedAnswer(answer, self.translation, self._envelope)
        except BaseException:
            answer.close()
            raise

    @property
    def _is_unload(self) -> bool:
        return not self.translation.path and self.options.keep_alive_seconds == 0

    @property
    def _envelope(self) -> Envelope:
        return Envelope(self.model_name, self.arrived_at, self.waited_seconds)

    def _loaded(self) -> OwnAnswer:
        return loaded_answer(self.translation.api, self._envelope, self._is_unload)


def _reason(key: ApiKey | None) -> str:
    if key is None:
        return "a web page of another site may not unload a model without a key; configure keys"
    return f"the key {key.name!r} may not unload a model; it needs `admin: true`"


def _note(option: str) -> None:
    """Log an ignored option, once; clients choose the names, so there is a limit."""
    if option not in _noted and len(_noted) < MAX_NOTED:
        _noted.add(option)
        log.info("ollama: option %r is ignored: llama-server has no such request option", option)
