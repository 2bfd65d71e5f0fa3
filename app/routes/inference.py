"""Inference: a request's `model` picks the server, its bytes go there unchanged, the answer comes back as it is."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, g, request

from app.entities.model import Model
from app.errors import InvalidRequest, MissingModel, NoEngine, Overloaded, ProxyError
from app.services import services

bp = Blueprint("inference", __name__)

UNKNOWN_MODEL = "_unknown"  # the label of requests that name none of ours: clients do not make up series
REQUEST_ID_BYTES = 128


@bp.post("/v1/chat/completions")
@bp.post("/chat/completions")
@bp.post("/v1/completions")
@bp.post("/completions")
@bp.post("/v1/embeddings")
@bp.post("/embeddings")
def infer() -> Response:
    """Route by the body's `model`; wait for its server; stream the answer."""
    exchange = Exchange()
    try:
        return exchange.run()
    except BaseException as error:
        exchange.end(error.status if isinstance(error, ProxyError) else 500)
        raise


class Exchange:
    """One request from its arrival to the last byte of its answer. `end` gives back all it holds, once."""

    def __init__(self) -> None:
        self.services = services()
        self.arrived_at = time.monotonic()
        self.model: Model | None = None
        self.has_place = False
        self.client: Any = None
        self.lease: Any = None
        self.answer: Any = None
        self.is_complete = False  # the whole answer went out, so a client that leaves now leaves nothing behind
        self.is_over = False
        self.endpoint = request.path

    def run(self) -> Response:
        self.has_place = self.services.places.enter()
        if not self.has_place:
            raise Overloaded("every place for inference requests is taken")
        body = request.get_data(cache=False)
        self.model = self.services.catalog.find(model_name(body))
        if self.services.engine is None:
            raise NoEngine(self.services.engine_problem)
        self.client = self.services.clients.watch(request.environ.get("gunicorn.socket"))
        self.lease = self.services.pool.acquire(self.model, self.services.max_wait_seconds, self.client)
        headers = {**request.headers, "X-Request-Id": request_id()}
        query = request.environ.get("QUERY_STRING", "")
        target = f"{request.path}?{query}" if query else request.path
        self.answer = self.services.relay.send(self.lease, "POST", target, headers, body, self.client)
        self.services.gauges.first_byte(self.model.name, time.monotonic() - self.arrived_at, self.lease.waited_seconds)
        return self.response()

    def response(self) -> Response:
        """The engine's answer with our headers. The body is passed on piece by piece."""
        assert self.model is not None
        response = Response(self.pieces(), status=self.answer.status)
        response.headers.clear()
        response.headers.extend(self.answer.headers)
        response.headers["x-llama-smart-proxy-model"] = self.model.name
        response.headers["x-llama-smart-proxy-device"] = "cpu"
        response.headers["x-llama-smart-proxy-wait-ms"] = str(round(self.lease.waited_seconds * 1000))
        if response.mimetype == "text/event-stream":
            response.headers["X-Accel-Buffering"] = "no"
        # Not in the generator's finally: a client that leaves before the first byte never starts the generator.
        response.call_on_close(lambda: self.end(499 if self.was_abandoned else self.answer.status))
        return response

    def pieces(self) -> Iterator[bytes]:
        yield from self.answer.chunks
        self.is_complete = True

    @property
    def was_abandoned(self) -> bool:
        return self.client.gone and not self.is_complete

    def end(self, status: int) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self.answer is not None:
            self.answer.close()
        if self.lease is not None:
            self.services.pool.release(self.lease, abandoned=self.was_abandoned)
        if self.client is not None:
            self.client.close()
        if self.has_place:
            self.services.places.leave()
        label = self.model.name if self.model else UNKNOWN_MODEL
        self.services.gauges.answered(self.endpoint, label, status, time.monotonic() - self.arrived_at)


def model_name(body: bytes) -> str:
    """The `model` of a JSON body: exactly what the engine will read there.

    Raises InvalidRequest for anything that is not one JSON object with one string of that name, MissingModel for none.
    """
    try:
        pairs = json.loads(body, object_pairs_hook=tuple)  # an object becomes a tuple, so that no key is lost
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(pairs, tuple):
        raise InvalidRequest("the body is not a JSON object")
    names = [value for key, value in pairs if key == "model"]
    if not names:
        raise MissingModel
    if len(names) > 1:
        raise InvalidRequest('the body has more than one "model"', param="model")
    if not isinstance(names[0], str):
        raise InvalidRequest('"model" is not a string', param="model")
    if not names[0].strip():
        raise MissingModel
    return names[0].strip()


def request_id() -> str:
    """The client's x-request-id if it is one that can be passed on, else a new one. Also put on our answers."""
    if "request_id" not in g:
        given = request.headers.get("x-request-id", "")
        usable = given.isascii() and given.isprintable() and 0 < len(given) <= REQUEST_ID_BYTES
        g.request_id = given if usable else uuid.uuid4().hex
    kept: str = g.request_id
    return kept
