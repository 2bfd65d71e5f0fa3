"""Exchange: one inference request from its arrival to the last byte of its answer."""

from __future__ import annotations

import contextlib
import functools
import logging
import string
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from werkzeug.wsgi import get_input_stream

from app.entities.model import Model
from app.entities.server import Server, ServerState
from app.errors import (
    ClientDisconnected,
    ContextLengthExceeded,
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
from app.routes.answers import WsgiResponse
from app.routes.authorization import no_such_path, servable_model
from app.routes.incoming_request import IncomingRequest
from app.routes.loading_messages import HEADERS, as_event, progress
from app.routes.paths import OTHER_PATH, PLAIN_ROUTES, STREAMING_ROUTES
from app.routes.requested_model import RequestOptions, read_request
from app.services import DIRECT, END, Services
from app.use_cases.scheduling.events import Ending

log = logging.getLogger(__name__)

UNKNOWN_MODEL = "_unknown"  # the label of requests that name none of ours: clients do not make up series
HEADER_SAFE = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"  # printable ASCII but "%": what else a name has is percent-encoded
QUERY_SAFE = string.punctuation  # what is encoded stays so
PATH_SAFE = "/:@!$&'()*+,;=~"
LOADS_NOTHING = ("GET", "HEAD")
NOT_IMPLEMENTED = 501  # llama-server's, where it was started without what is asked for

SILENT_SECONDS = 2.0  # of waiting, before a stream begins with what it waits for
LOOK_SECONDS = 0.25  # how often it is looked whether a place is booked, after that
COMMENT_SECONDS = 1.0  # between two comments


class Exchange:
    """`run` gives the answer; `end` gives back all it holds, once."""

    def __init__(self, request: IncomingRequest, route: str) -> None:
        self.request = request
        self.route = route
        self.services = request.services
        self.arrived_at = time.monotonic()
        self.body = b""
        self.name = ""  # of the model, in the request's words
        self.wish = RequestOptions("")
        self.model: Model | None = None
        self.client: Any = None
        self.asking: Any = None  # for a slot
        self.direct = request.environ.get(DIRECT)
        self.answer: Any = None
        self.device = ""  # where its model is
        self.waited_seconds = 0.0
        self.is_sent = False  # the engine may be at work for it
        self.is_complete = False  # the whole answer went out
        self.is_cut = False  # the client was told so; one that had left by then raises instead
        self.failure: ProxyError | None = None  # of a stream that had begun with what it waits for
        self.is_over = False
        self.held: list[Callable[[], None]] = []  # what gives back what is held, the last thing first
        request.environ[END] = self.end

    def run(self) -> WsgiResponse:
        """The answer, its body still to come. Raises the ProxyError that says why there is none."""
        self.held.append(enter(self.services))
        self.count_for_its_key()
        is_by_address = self.route != OTHER_PATH and self.request.method in LOADS_NOTHING
        self.body = b"" if is_by_address else read_body(self.request)
        self.wish = said = self.what_is_said()
        self.name = said.model
        self.model = model = servable_model(self.request, self.name)
        if self.services.engine is None:
            raise NoEngine(self.services.engine_problem)
        self.client = self.services.clients.watch(self.request.environ.get("gunicorn.socket"))
        self.held.append(self.client.close)
        if self.request.method in LOADS_NOTHING:
            self.send(self.address_of_what_is_there(model))
        else:
            self.asking = self.services.pool.acquire(
                model, self.services.max_wait_seconds, self.client, said.num_ctx, said.conversation
            )
            self.held.append(
                lambda: self.asking.end(self.ending, self.wish.keep_alive_seconds if self.is_sent else None)
            )
            shows = said.streams and self.services.loading_comments and self.route in STREAMING_ROUTES
            lease = self.slot_soon(model) if shows else self.asking.wait()
            if lease is None:
                return WsgiResponse(200, [*HEADERS, *self.our_headers(model)], AnswerBody(self))
            self.send_on(lease)
        return WsgiResponse(self.answer.status, self.headers(model), AnswerBody(self))

    def said(self, name: str) -> str:
        """A header of the request, as the engine may be told."""
        return self.request.request_id if name == "X-Request-Id" else self.request.header(name)

    def count_for_its_key(self) -> None:
        key = self.request.key
        counts = key and self.request.method not in LOADS_NOTHING
        if key and counts and (wait_seconds := self.services.rates.take(key)):
            raise RateLimited(key, wait_seconds)

    def what_is_said(self) -> RequestOptions:
        """Of the model, and the answer's form. A path that is not ours is there only for bodies that name a model."""
        try:
            return read_request(self.request, self.body)
        except (InvalidRequest, MissingModel) as error:
            if self.route == OTHER_PATH:
                raise no_such_path(self.request, str(error)) from error
            raise

    def address_of_what_is_there(self, model: Model) -> Any:
        """For what loads nothing, and holds no slot."""
        if address := self.services.pool.address(model):
            return address
        raise ModelUnloaded(f"{model.name} is not loaded, and a GET loads nothing: POST /models/load does")

    def slot_soon(self, model: Model) -> Any:
        """The slot; None if its model is being loaded, and that takes so long that the client is better told. Before a
        place is booked, a refusal still has a status of its own."""
        lease = self.asking.wait(SILENT_SECONDS)
        while lease is None and not is_loading(server := self.server_of(model)):
            lease = self.asking.wait(LOOK_SECONDS)
        if lease is None and server is not None:
            self.device = server.placement.device
        return lease

    def server_of(self, model: Model) -> Server | None:
        return self.services.store.pool.server_of(model.name)

    def send_on(self, lease: Any) -> None:
        self.waited_seconds = lease.waited_seconds
        has, wanted = lease.address.context_tokens, self.wish.num_ctx
        if wanted is not None and has and wanted > has:
            raise ContextLengthExceeded(lease.address.model, wanted, has, is_loaded=True)
        self.send(lease.address)

    def send(self, address: Any) -> None:
        """To its server; the head of the answer is here then."""
        assert self.model is not None
        self.device, self.is_sent = address.device, True
        self.answer = self.services.relay.send(
            address, self.request.method, target(self.request), self.said, self.body, self.client
        )
        self.held.append(self.answer.close)
        self.services.gauges.first_byte(self.model.name, time.monotonic() - self.arrived_at, self.waited_seconds)

    def headers(self, model: Model) -> list[tuple[str, str]]:
        """The engine's, with ours."""
        waited = ("x-llama-smart-proxy-wait-ms", str(round(self.waited_seconds * 1000)))
        more = [("X-Accel-Buffering", "no")] if self.answer.is_stream else []
        if self.answer.status == NOT_IMPLEMENTED:
            more.append(("x-should-retry", "false"))  # SDKs repeat it otherwise, and it stays so
        return [*self.answer.headers, *self.our_headers(model), waited, *more]

    def our_headers(self, model: Model) -> list[tuple[str, str]]:
        return [("x-llama-smart-proxy-model", _as_header(model.name)), ("x-llama-smart-proxy-device", self.device)]

    def pieces(self) -> Iterator[bytes]:
        """The body; none of it where it goes to the client's socket by itself, as soon as it is asked for."""
        if self.answer is None:
            yield from self.loading()
        if self.answer is None or self.is_complete:
            return
        if self.direct is not None and self.direct.takes(self.answer.body):
            self.is_complete = self.answer.send_to(self.direct)
        else:
            self.is_complete = yield from self.answer.chunks
        self.is_cut = not self.is_complete

    def loading(self) -> Iterator[bytes]:
        """How far the load is, until the request can go to its server. What fails now is an event."""
        assert self.model is not None
        told = ""
        try:
            lease = None
            while lease is None:
                text = progress(_as_header(self.model.name), self.server_of(self.model))
                yield as_event(text, self.route, self.services.loading_comments if text != told else True)
                told, lease = text, self.asking.wait(COMMENT_SECONDS)
            self.send_on(lease)
            if not self.answer.is_stream:  # a refusal, mostly
                yield b"data: " + b" ".join(b"".join(self.answer.chunks).splitlines()) + b"\n\n"
                self.is_complete = True
        except ProxyError as error:
            self.failure = error
            yield error.event

    @property
    def final_status(self) -> int:
        if self.is_complete:
            status: int = self.answer.status
            return status
        if self.failure:
            return self.failure.status
        return ClientDisconnected.status if self.client.gone and not self.is_cut else UpstreamCrashed.status

    @property
    def ending(self) -> Ending:
        if not self.is_sent:
            return Ending.NOT_SENT
        if self.is_complete:
            return Ending.COMPLETE
        streams = self.answer is not None and self.answer.is_stream
        return Ending.ABORTED_WHILE_STREAMING if streams else Ending.ABORTED_WHILE_SILENT

    def end(self, status: int) -> None:
        """Give everything back. The first call counts: the application's, or the worker's if that never got to it."""
        if self.is_over:
            return
        self.is_over = True
        self.request.environ.pop(END, None)  # a circle that only the collector would find
        try:
            self.give_back()
        finally:
            seconds = time.monotonic() - self.arrived_at
            name = self.model.name if self.model else UNKNOWN_MODEL
            usage = self.answer.usage() if self.is_complete else None
            prompt, completion = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
            self.services.gauges.answered(self.route, name, status, seconds, prompt, completion)
            self.services.access_log.note(
                *(status, self.route, name, self.name, seconds, prompt, completion, self.request.request_id)
            )

    def give_back(self) -> None:
        """All of it, whatever fails."""
        while self.held:
            try:
                self.held.pop()()
            except Exception:
                log.exception("something of a request was not given back")


class AnswerBody:
    """What WSGI iterates over, and closes."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        return self._exchange.pieces()

    def close(self) -> None:
        self._exchange.end(self._exchange.final_status)


def enter(services: Services) -> Callable[[], None]:
    """Take a place among those that may wait; how to leave it. Raises Overloaded when all are taken."""
    if not services.admission.enter():
        raise Overloaded("every place for inference requests is taken")
    return services.admission.leave


@contextlib.contextmanager
def place(services: Services) -> Iterator[None]:
    """The same for the length of something that waits."""
    leave = enter(services)
    try:
        yield
    finally:
        leave()


@functools.lru_cache(maxsize=1024)
def _as_header(name: str) -> str:
    return quote(name, safe=HEADER_SAFE)


def target(request: IncomingRequest) -> str:
    """The path and query to ask the engine for. What was checked is what is sent: the path is encoded anew."""
    if not request.query and request.path in PLAIN_ROUTES:
        return request.path
    query = quote(request.query, safe=QUERY_SAFE)
    path = quote(request.path, safe=PATH_SAFE)
    return f"{path}?{query}" if query else path


def read_body(request: IncomingRequest) -> bytes:
    """The request's body. Raises RequestTooLarge, by its announced length or as soon as it has grown too large."""
    max_bytes = request.services.max_body
    if request.announced_bytes <= max_bytes:
        # Where the server does not say that its stream ends with the body, it is read no further than announced.
        body: bytes = get_input_stream(request.environ).read(max_bytes + 1)
        if len(body) <= max_bytes:
            return body
    raise RequestTooLarge(f"the body is larger than {max_bytes} bytes (server.max_body)")


def is_loading(server: Server | None) -> bool:
    return server is not None and server.state is ServerState.STARTING
