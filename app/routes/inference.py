"""Inference: a request's `model` picks the server, its bytes go there unchanged, the answer comes back as it is."""

from __future__ import annotations

import contextlib
import logging
import string
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import NotFound as NoSuchRule

from app.entities.model import Model
from app.errors import (
    ClientLeft,
    InvalidRequest,
    MissingModel,
    ModelUnloaded,
    NoEngine,
    Overloaded,
    ProxyError,
    RateLimited,
    RequestTooLarge,
    UpstreamCrashed,
)
from app.routes.answers import Answer
from app.routes.doors import no_such_path, servable_model
from app.routes.incoming import Incoming, incoming
from app.routes.model_name import model_name
from app.services import DIRECT, END, Services
from app.use_cases.events import Ending

log = logging.getLogger(__name__)

bp = Blueprint("inference", __name__)

ENDPOINT = "inference.infer_by_flask"
UNKNOWN_MODEL = "_unknown"  # the label of requests that name none of ours: clients do not make up series
OTHER_PATH = "_other"  # the label of paths that are not ours
HEADER_SAFE = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"  # printable ASCII but "%": what else a name has is percent-encoded
QUERY_SAFE = string.punctuation  # what is encoded stays so
PATH_SAFE = "/:@!$&'()*+,;=~"
LOADS_NOTHING = ("GET", "HEAD")
PASSED_ON = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

# llama-server's routes that name a model (b11434, server.cpp), and what OpenAI's clients put before some of them.
POST_ROUTES = (
    *("/v1/chat/completions", "/chat/completions", "/v1/completions", "/completions", "/completion"),
    *("/v1/responses", "/responses", "/v1/responses/input_tokens", "/v1/chat/completions/input_tokens"),
    *("/v1/chat/completions/control", "/v1/messages", "/v1/messages/count_tokens", "/v1/systemone"),
    *("/v1/embeddings", "/embeddings", "/embedding", "/v1/rerank", "/v1/reranking", "/rerank", "/reranking"),
    *("/infill", "/tokenize", "/detokenize", "/apply-template", "/v1/audio/transcriptions", "/audio/transcriptions"),
    *("/lora-adapters", "/slots/<int:slot>", "/props"),
)
GET_ROUTES = ("/slots", "/lora-adapters")  # and /props and /metrics, which are ours without ?model=

PLAIN_ROUTES = frozenset(route for route in POST_ROUTES if "<" not in route)  # a path is one of these, or is not

# Never passed on, to whatever model: they fetch addresses, run commands or reach other programs.
DENIED = ("cors-proxy", "tools", "mcp", "agent")


def infer(asked: Incoming, route: str) -> Answer:
    """Route by the request's `model`; wait for its server, or take it as it is for a GET; stream the answer.

    Raises the ProxyError that says why there is none.
    """
    exchange = Exchange(asked, route)
    try:
        return exchange.run()
    except BaseException as error:
        exchange.end(_status_of(error))
        raise


def infer_by_flask(slot: int = 0) -> Response:
    return as_flask(infer(incoming(), request.url_rule.rule if request.url_rule else OTHER_PATH))


def as_flask(answer: Answer) -> Response:
    response = Response(answer.body, status=answer.status)
    response.headers.clear()
    response.headers.extend(answer.headers)
    # Not in the generator's finally: a client that leaves before the first byte never starts the generator.
    response.call_on_close(getattr(answer.body, "close", bool))
    return response


for path in POST_ROUTES:
    bp.post(path)(infer_by_flask)
for path in GET_ROUTES:
    bp.get(path)(infer_by_flask)


@bp.before_app_request
def pass_on() -> Response | None:
    """A path that is none of ours goes to the model that its JSON body names, as in the original service."""
    if not isinstance(request.routing_exception, NoSuchRule):
        return None
    asked = incoming()
    is_form = asked.mimetype == "multipart/form-data"
    if not asked.has_body or is_form or asked.method not in PASSED_ON or not _may_be_passed_on(asked.path):
        return None
    return infer_by_flask()


def _may_be_passed_on(path: str) -> bool:
    """No denied name anywhere in it, and nothing that another reader could take for another path."""
    segments = path.lower().split("/")[1:]
    is_plain = path.isprintable() and not {"", ".", ".."} & set(segments)
    return is_plain and not any(segment.startswith(DENIED) for segment in segments)


class Exchange:
    """One request from its arrival to the last byte of its answer. `end` gives back all it holds, once."""

    def __init__(self, asked: Incoming, route: str) -> None:
        self.asked = asked
        self.route = route
        self.services = asked.services
        self.arrived_at = time.monotonic()
        self.model: Model | None = None
        self.name = ""  # of the model, in the request's words
        self.client: Any = None
        self.direct = asked.environ.get(DIRECT)
        self.answer: Any = None
        self.device = ""  # where its model is
        self.waited_seconds = 0.0
        self.is_complete = False  # the whole answer went out
        self.is_over = False
        self.held: list[Callable[[], None]] = []  # what gives back what is held, the last thing first
        asked.environ[END] = self.end

    def run(self) -> Answer:
        """The answer, its body still to come. Raises the ProxyError that says why there is none."""
        self.held.append(enter(self.services))
        self.count_for_its_key()
        is_by_address = self.route != OTHER_PATH and self.asked.method in LOADS_NOTHING
        body = b"" if is_by_address else read_body(self.asked)
        self.name = self.name_in(body)
        self.model = servable_model(self.asked, self.name)
        if self.services.engine is None:
            raise NoEngine(self.services.engine_problem)
        self.client = self.services.clients.watch(self.asked.environ.get("gunicorn.socket"))
        self.held.append(self.client.close)
        address = self.address_of(self.model)
        self.device = address.device
        self.answer = self.services.relay.send(
            address, self.asked.method, target(self.asked), self.said, body, self.client
        )
        self.held.append(self.answer.close)
        self.services.gauges.first_byte(self.model.name, time.monotonic() - self.arrived_at, self.waited_seconds)
        return Answer(self.answer.status, self.headers(self.model), Body(self))

    def said(self, name: str) -> str:
        """A header of the request, as the engine may be told."""
        return self.asked.request_id if name == "X-Request-Id" else self.asked.header(name)

    def count_for_its_key(self) -> None:
        key = self.asked.key
        counts = key and self.asked.method not in LOADS_NOTHING
        if key and counts and (wait_seconds := self.services.rates.take(key)):
            raise RateLimited(key, wait_seconds)

    def name_in(self, body: bytes) -> str:
        """The model's name. A path that is not ours is there only for bodies that have one."""
        try:
            return model_name(self.asked, body)
        except (InvalidRequest, MissingModel) as error:
            if self.route == OTHER_PATH:
                raise no_such_path(self.asked, str(error)) from error
            raise

    def address_of(self, model: Model) -> Any:
        """Where to send it: a slot that is waited for and held, or for what loads nothing the server that is there."""
        if self.asked.method in LOADS_NOTHING:
            if address := self.services.pool.address(model):
                return address
            raise ModelUnloaded(f"{model.name} is not loaded, and a GET loads nothing: POST /models/load does")
        lease = self.services.pool.acquire(model, self.services.max_wait_seconds, self.client)
        self.held.append(lambda: self.services.pool.release(lease, self.ending))
        self.waited_seconds = lease.waited_seconds
        return lease.address

    def headers(self, model: Model) -> list[tuple[str, str]]:
        """The engine's, with ours."""
        ours = [
            ("x-llama-smart-proxy-model", quote(model.name, safe=HEADER_SAFE)),
            ("x-llama-smart-proxy-device", self.device),
            ("x-llama-smart-proxy-wait-ms", str(round(self.waited_seconds * 1000))),
        ]
        is_unbuffered = [("X-Accel-Buffering", "no")] if self.answer.is_stream else []
        return [*self.answer.headers, *ours, *is_unbuffered]

    def pieces(self) -> Iterator[bytes]:
        """The body; none of it where it goes to the client's socket by itself, as soon as it is asked for."""
        if self.direct is not None and self.direct.takes(self.answer.body):
            self.is_complete = self.answer.send_to(self.direct)
        else:
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
        self.asked.environ.pop(END, None)  # a circle that only the collector would find
        try:
            self.give_back()
        finally:
            seconds = time.monotonic() - self.arrived_at
            name = self.model.name if self.model else UNKNOWN_MODEL
            usage = self.answer.usage() if self.is_complete else None
            prompt, completion = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
            self.services.gauges.answered(self.route, name, status, seconds, prompt, completion)
            self.services.access.note(
                *(status, self.route, name, self.name, seconds, prompt, completion, self.asked.request_id)
            )

    def give_back(self) -> None:
        """All of it, whatever fails."""
        while self.held:
            try:
                self.held.pop()()
            except Exception:
                log.exception("something of a request was not given back")


class Body:
    """What WSGI iterates over, and closes."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        return self._exchange.pieces()

    def close(self) -> None:
        self._exchange.end(self._exchange.final_status)


def enter(services: Services) -> Callable[[], None]:
    """Take a place among those that may wait; how to leave it. Raises Overloaded when all are taken."""
    if not services.places.enter():
        raise Overloaded("every place for inference requests is taken")
    leave: Callable[[], None] = services.places.leave
    return leave


@contextlib.contextmanager
def place(services: Services) -> Iterator[None]:
    """The same for the length of something that waits."""
    leave = enter(services)
    try:
        yield
    finally:
        leave()


def target(asked: Incoming) -> str:
    """The path and query to ask the engine for. What was checked is what is sent: the path is encoded anew."""
    query = quote(asked.query, safe=QUERY_SAFE)
    path = quote(asked.path, safe=PATH_SAFE)
    return f"{path}?{query}" if query else path


def _status_of(error: BaseException) -> int:
    """The status that the client of a request which ended so will see."""
    cause = error.__cause__
    for each in (error, cause):
        if isinstance(each, ProxyError):
            return each.status
    if isinstance(error, HTTPException):
        return error.code or 500
    return 500 if isinstance(error, Exception) else 400  # what is no Exception is a body that could not be read


def read_body(asked: Incoming) -> bytes:
    """The request's body. Raises RequestTooLarge, by its announced length or as soon as it has grown too large."""
    max_bytes = asked.services.max_body
    if asked.announced_bytes <= max_bytes:
        body: bytes = asked.environ["wsgi.input"].read(max_bytes + 1)
        if len(body) <= max_bytes:
            return body
    raise RequestTooLarge(f"the body is larger than {max_bytes} bytes (server.max_body)")
