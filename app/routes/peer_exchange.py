"""PeerExchange: the part of an exchange that sends its request to a peer, if the model is one of a peer's.

The body gets the peer's name of the model; the path, the query and a few headers go on, the client's key never does.
A request is sent to the next peer with such a model only if the one before has not read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from urllib.parse import parse_qsl, urlencode

from app.entities.peer import HOPS_HEADER, PeerModel
from app.errors import Draining, NotSupported, PeerUnavailable
from app.ports import BodyFile, EngineAnswer, UpstreamRequest
from app.request_body.content import MULTIPART
from app.request_body.form import with_model_field
from app.request_body.rewriting import with_model
from app.routes.incoming_request import IncomingRequest
from app.routes.model_search import ModelSearch
from app.routes.paths import OTHER_PATH, PEER_PATHS
from app.routes.peer_models import models_at_peers
from app.use_cases.token_counts import Prompts

Send = Callable[[UpstreamRequest], EngineAnswer]

FORWARDED_HEADERS = ("Anthropic-Version", "Anthropic-Beta")  # and those that engines get
OURS = ("model", "autoload")  # of the query


class PeerExchange(ModelSearch):
    """Written by the request's own thread alone (exchange.py)."""

    def __init__(self, request: IncomingRequest, route: str) -> None:
        super().__init__(request, route)
        self.arrived_at = time.monotonic()
        self.peer_model: PeerModel | None = None
        self.device = ""
        self.waited_seconds = 0.0
        self.first_byte_seconds: float | None = None

    def _ask(self, data: bytes | BodyFile, send: Send) -> EngineAnswer:
        return send(self.request.for_engine(data))

    def _begin_at_peer(self) -> bool:
        """Get the head of the answer from a peer; False if the model is not one of a peer's. Raises ProxyError."""
        models = models_at_peers(self.request, self.options.model)
        if not models:
            return False
        self.peer_model = models[0]
        if self.answer is None:  # no agent has answered
            self._check_peer_request(models[0])
            self._send_to_first(models)
        return True

    def _check_peer_request(self, model: PeerModel) -> None:
        if self.services.store.pool.draining:
            raise Draining("the service is shutting down")
        if self.engine_route and self._peer_path is None:
            raise NotSupported(
                f"{model.name} is a model of peer {model.peer}, and {self.request.path[:200]} is not a route that "
                "servers with OpenAI's API have: docs/peers.md lists those"
            )

    def _send_to_first(self, models: list[PeerModel]) -> None:
        """To the first of them that reads it. Raises the last one's error."""
        *others, last = models
        for model in others:
            try:
                return self._send_to(model)
            except PeerUnavailable:
                self.is_sent = False
        self._send_to(last)

    def _send_to(self, model: PeerModel) -> None:
        self.peer_model, self.device, self.is_sent = model, f"peer:{model.peer}", True
        self._name_model(model)
        data = self.body.data if self.body else b""
        self.prompts = Prompts(self.options.prompts, len(data) + self.options.repeated_bytes, model.context_tokens)
        self.answer = self._ask(data, partial(self._send_to_peer, model))
        self.releases.append(self.answer.close)
        if self.body:
            self.body.close()  # the peer has it
        self.first_byte_seconds = time.monotonic() - self.arrived_at
        self.services.gauges.first_byte(model.name, self.first_byte_seconds, 0.0)

    def _send_to_peer(self, model: PeerModel, request: UpstreamRequest) -> EngineAnswer:
        assert self.client is not None and self._peer_path is not None
        target = f"{self._peer_path}{_query(self.request)}"
        more = {name: value for name in FORWARDED_HEADERS if (value := self.request.header(name))}
        ours = {HOPS_HEADER: "1", "User-Agent": f"llama-smart-proxy/{self.services.version}"}
        request = replace(request, target=target, headers={**request.headers, **more, **ours})
        return self.services.peers.send(model, request, self.client)

    def _name_model(self, model: PeerModel) -> None:
        """Raises Overloaded if the new body does not fit into the budget."""
        if self.body is None or not len(self.body):
            return
        if self.request.mimetype == MULTIPART:
            self.body.rewrite(partial(with_model_field, model=model.id, boundary=self.request.boundary))
        else:
            self.body.rewrite(partial(with_model, model=model.id))

    @property
    def _peer_path(self) -> str | None:
        """The path below a peer's base URL; None if peers have no such route."""
        return PEER_PATHS.get(self.request.path if self.route == OTHER_PATH else self.engine_route)

    @property
    def model_name(self) -> str:
        """The name that log and metrics have for its model; "" while that is not known."""
        return self.model.name if self.model else self.peer_model.name if self.peer_model else ""

    @property
    def _answering_model(self) -> str:
        return self.model_name or super()._answering_model


def _query(request: IncomingRequest) -> str:
    """Of the request, without what was for this service."""
    query = request.environ.get("QUERY_STRING", "")
    kept = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] not in OURS] if query else []
    return f"?{urlencode(kept)}" if kept else ""
