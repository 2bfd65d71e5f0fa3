"""Inference: a request's `model` picks the server, its bytes go there unchanged, the answer comes back as it is."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import HTTPException

from app.entities.model import Model
from app.errors import (
    ClientLeft,
    InvalidRequest,
    MissingModel,
    NoEngine,
    Overloaded,
    ProxyError,
    RequestTooLarge,
    UpstreamCrashed,
)
from app.services import END, services
from app.use_cases.events import Ending

log = logging.getLogger(__name__)

bp = Blueprint("inference", __name__)

UNKNOWN_MODEL = "_unknown"  # the label of requests that name none of ours: clients do not make up series
REQUEST_ID_BYTES = 128
MAX_VALUES = 1_000_000  # reading them holds Python's lock: some 0.3 s; a picture or a long text is one value
HEADER_SAFE = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"  # printable ASCII but "%": what else a name has is percent-encoded


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
        exchange.end(_status_of(error))
        raise


class Exchange:
    """One request from its arrival to the last byte of its answer. `end` gives back all it holds, once."""

    def __init__(self) -> None:
        self.services = services()
        self.arrived_at = time.monotonic()
        self.model: Model | None = None
        self.client: Any = None
        self.answer: Any = None
        self.is_complete = False  # the whole answer went out
        self.is_over = False
        self.endpoint = request.path
        self.request_id = request_id()
        self.held = contextlib.ExitStack()  # what must be given back, whatever else fails
        request.environ[END] = self.end

    def run(self) -> Response:
        if not self.services.places.enter():
            raise Overloaded("every place for inference requests is taken")
        self.held.callback(self.services.places.leave)
        body = read_body(self.services.max_body)
        self.model = self.services.catalog.find(model_name(body))
        if self.services.engine is None:
            raise NoEngine(self.services.engine_problem)
        self.client = self.services.clients.watch(request.environ.get("gunicorn.socket"))
        self.held.callback(self.client.close)
        lease = self.services.pool.acquire(self.model, self.services.max_wait_seconds, self.client)
        self.held.callback(lambda: self.services.pool.release(lease, self.ending))
        headers = {**request.headers, "X-Request-Id": self.request_id}
        query = request.environ.get("QUERY_STRING", "")
        target = f"{request.path}?{query}" if query else request.path
        self.answer = self.services.relay.send(lease, "POST", target, headers, body, self.client)
        self.held.callback(self.answer.close)
        self.services.gauges.first_byte(self.model.name, time.monotonic() - self.arrived_at, lease.waited_seconds)
        return self.response(lease.waited_seconds)

    def response(self, waited_seconds: float) -> Response:
        """The engine's answer with our headers. The body is passed on piece by piece."""
        assert self.model is not None
        response = Response(self.pieces(), status=self.answer.status)
        response.headers.clear()
        response.headers.extend(self.answer.headers)
        response.headers["x-llama-smart-proxy-model"] = quote(self.model.name, safe=HEADER_SAFE)
        response.headers["x-llama-smart-proxy-device"] = "cpu"
        response.headers["x-llama-smart-proxy-wait-ms"] = str(round(waited_seconds * 1000))
        if self.answer.is_stream:
            response.headers["X-Accel-Buffering"] = "no"
        # Not in the generator's finally: a client that leaves before the first byte never starts the generator.
        response.call_on_close(lambda: self.end(self.final_status))
        return response

    def pieces(self) -> Iterator[bytes]:
        self.is_complete = yield from self.answer.chunks

    @property
    def final_status(self) -> int:
        if self.is_complete:
            status: int = self.answer.status
            return status
        return ClientLeft.status if self.client.gone else UpstreamCrashed.status

    @property
    def ending(self) -> Ending:
        if self.is_complete:
            return Ending.COMPLETE
        streams = self.answer is not None and self.answer.is_stream
        return Ending.CUT_IN_STREAM if streams else Ending.CUT_IN_SILENCE

    def end(self, status: int) -> None:
        """Give everything back. The first call counts: the application's, or the worker's if that never got to it."""
        if self.is_over:
            return
        self.is_over = True
        try:
            self.held.close()
        finally:
            seconds = time.monotonic() - self.arrived_at
            name = self.model.name if self.model else UNKNOWN_MODEL
            self.services.gauges.answered(self.endpoint, name, status, seconds)
            log.info(
                "request status=%d path=%s model=%s seconds=%.3f id=%s",
                *(status, self.endpoint, name, seconds, self.request_id),
            )


def _status_of(error: BaseException) -> int:
    """The status that the client of a request which ended so will see."""
    cause = error.__cause__
    for each in (error, cause):
        if isinstance(each, ProxyError):
            return each.status
    if isinstance(error, HTTPException):
        return error.code or 500
    return 500 if isinstance(error, Exception) else 400  # what is no Exception is a body that could not be read


def read_body(max_bytes: int) -> bytes:
    """The request's body. Raises RequestTooLarge, by its announced length or as soon as it has grown too large."""
    body: bytes = b""
    if (request.content_length or 0) <= max_bytes:
        body = request.environ["wsgi.input"].read(max_bytes + 1)
        if len(body) <= max_bytes:
            return body
    raise RequestTooLarge(f"the body is larger than {max_bytes} bytes (server.max_body)")


def model_name(body: bytes) -> str:
    """The `model` of a JSON body, white space around it aside.

    Raises InvalidRequest for anything that is not one JSON object with one string of that name, MissingModel for none.
    """
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > MAX_VALUES:
        raise InvalidRequest(f"the body has more than {MAX_VALUES:,} JSON values")
    try:
        # An object becomes a tuple, so that no key is lost; a number is not worked out, so that none is too long.
        pairs = json.loads(body.decode(), object_pairs_hook=tuple, parse_int=_Number, parse_constant=_refuse_constant)
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


class _Number:
    """A JSON number, whatever its length."""

    def __init__(self, text: str) -> None:
        pass


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def request_id() -> str:
    """The client's x-request-id if it is one that can be passed on, else a new one. Also put on our answers."""
    if "request_id" not in g:
        given = request.headers.get("x-request-id", "")
        usable = given.isascii() and given.isprintable() and 0 < len(given) <= REQUEST_ID_BYTES
        g.request_id = given if usable else uuid.uuid4().hex
    kept: str = g.request_id
    return kept
