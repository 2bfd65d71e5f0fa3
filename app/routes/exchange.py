"""Exchange: one inference request from its arrival to the last byte of its answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from app.entities.model import Model
from app.entities.server import Server
from app.errors import ContextLengthExceeded, EngineGone, ProxyError
from app.ports import Address, Lease, SlotRequest, WatchedClient
from app.routes import loading_stream
from app.routes.answer_head import answer_head, as_header
from app.routes.error_response import PHRASES, respond_with_error, status_of
from app.routes.incoming_request import IncomingRequest
from app.routes.key_limits import permitted_keep_alive, take_request
from app.routes.loading_rules import LOADS_NOTHING, loaded_address
from app.routes.model_engine import check_engine
from app.routes.peer_exchange import PeerExchange
from app.routes.request_record import request_record
from app.routes.virtual_names import first_slot
from app.routes.visibility import alternatives, visible_error
from app.services import CLIENT_SOCKET
from app.use_cases.token_counts import Prompts

log = logging.getLogger(__name__)

UNKNOWN_MODEL = "_unknown"  # the label of requests for a name that is not in the catalogue: clients add no series


def respond(
    request: IncomingRequest,
    route: str,
    start_response: Callable[..., Any],
    kind: Callable[[IncomingRequest, str], Exchange] | None = None,
) -> Iterable[bytes]:
    """Answer an inference request, as a WSGI application: route it by its model, wait for a server, copy its answer.

    The body is not returned but sent, through `write` or on the client's socket (PEP 3333 has both ways).
    Raises an exception only where the answer has begun and must be cut: ConnectionResetError, mostly.
    """
    exchange = (kind or Exchange)(request, route)
    try:
        exchange.begin()
    except BaseException as error:
        exchange.end(status_of(error))
        if isinstance(error, Exception):
            return respond_with_error(request, error, start_response)
        raise
    try:
        exchange.send_answer(start_response)
    finally:
        exchange.end(exchange.final_status)
    return ()


class Exchange(PeerExchange):
    """The state of one inference request; used by its own thread alone."""

    def __init__(self, request: IncomingRequest, route: str) -> None:
        super().__init__(request, route)
        self.slot: SlotRequest | None = None

    def begin(self) -> None:
        """Get the head of the answer; for a stream whose model is loading, return before. Raises ProxyError."""
        request, services = self.request, self.services
        services.admission.acquire()
        self.releases.append(services.admission.release)
        if request.key is not None and request.method not in LOADS_NOTHING:
            take_request(services, request.key)
        self._read_request()
        self.client = request.watch_client()
        self.releases.append(self.client.close)
        if not self._begin_at_peer() and (model := self._here_or_downloaded(self.client)) is not None:
            self._begin_with(model)

    def send_answer(self, start_response: Callable[..., Any]) -> None:
        """Send the head and the body to the client. Raises ConnectionResetError if the answer must be cut."""
        about = self.device, self.waited_seconds, self.request.request_id, self.peer_model is not None
        status, headers = answer_head(self.answer, self._answering_model, *about)
        write = start_response(f"{status} {PHRASES.get(status, 'Unknown')}", headers)
        self.has_begun = True
        if self.answer is None:
            self._finish_load(write)
        if self.answer is not None and not self.is_complete:
            self.is_complete = self.answer.copy_body(write, self.request.environ.get(CLIENT_SOCKET))

    def end(self, status: int) -> None:
        """Give everything back, then count and log the request."""
        while self.releases:
            try:
                self.releases.pop()()
            except Exception:
                log.exception("a request could not give back what it holds")
        seconds = time.monotonic() - self.arrived_at
        model = self.model_name or UNKNOWN_MODEL
        usage = self.usage
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        key = self.request.key.name if self.request.key else ""
        if key and self.request.method not in LOADS_NOTHING:
            self.services.tokens.count(key, self.tokens_of_key(self.route))
        self.services.gauges.answered(self.route, model, status, seconds, prompt, completion, key)
        if self.takes_slot:
            self.services.activity.note(request_record(self, status, seconds))
        self.services.access_log.note(
            *(status, self.route, model, self.options.model, seconds, prompt, completion, self.request.request_id)
        )

    # --- before the answer ----------------------------------------------------------------------------

    def _begin_with(self, model: Model) -> None:
        request, self.model = self.request, model
        self._check_model(model)
        if not self.takes_slot:
            check_engine(self.services, model)
            self._send(loaded_address(request, self.route, model))
        elif (lease := first_slot(request, self.options.model, self._requirements, model, self._wait_for)) is not None:
            self._send_on(lease)

    def _wait_for(self, model: Model) -> Lease | None:
        assert self.client is not None
        if model is not self.model:  # a virtual name's next one
            self.model = model
            self._check_model(model)
        check_engine(self.services, model)
        return self._wait_for_slot(model, self.client)

    def _wait_for_slot(self, model: Model, client: WatchedClient) -> Lease | None:
        """The slot; None if the model is loading and the stream should begin with progress."""
        slot = self._acquire(model, client)
        if self._release_slot not in self.releases:
            self.releases.append(self._release_slot)
        # A stream that has begun could not be answered by another model of a virtual name.
        if not self._shows_progress or len(alternatives(self.request, self.options.model, self._requirements)) > 1:
            return slot.wait()
        lease = loading_stream.wait_silently(slot, self._server)
        if lease is None and (server := self._server()) is not None:
            self.device = server.placement.device
        return lease

    def _acquire(self, model: Model, client: WatchedClient) -> SlotRequest:
        options, wait_seconds = self.options, self.request.settings.max_wait_seconds
        key = self.request.key.name if self.request.key else ""
        about = options.conversation, key, self._hash(key, model), self.may_load
        self.slot = self.services.pool.acquire(model, wait_seconds, client, options.num_ctx, *about)
        return self.slot

    def _hash(self, key: str, model: Model) -> str:
        if self.body is None:
            return ""
        request = self.request
        return self.body.hash(key, model.name, request.method, request.path, request.environ.get("QUERY_STRING", ""))

    def _release_slot(self) -> None:
        if self.slot is not None:
            self.slot.end(self.ending, self._keep_alive_seconds if self.is_sent else None)

    @property
    def _keep_alive_seconds(self) -> float | None:
        assert self.model is not None
        ttl, default = self.model.ttl_seconds, self.services.store.pool.limits.ttl_seconds
        return permitted_keep_alive(self.request, self.options.keep_alive_seconds, default if ttl is None else ttl)

    def _server(self) -> Server | None:
        return self.services.store.pool.server_of(self.model.name) if self.model else None

    # --- to the server, and back ----------------------------------------------------------------------

    def _send_on(self, lease: Lease) -> None:
        self.waited_seconds = lease.waited_seconds
        available, requested = lease.address.context_tokens, self.options.num_ctx
        if requested is not None and available and requested > available:
            raise ContextLengthExceeded(lease.address.model, requested, available, is_loaded=True)
        try:
            self._send(lease.address)
        except EngineGone:
            self._send(self._next_lease().address)

    def _next_lease(self) -> Lease:
        """Another slot, once: the server of the first one ended before it had read the request."""
        assert self.model is not None and self.client is not None
        self.is_sent = False
        self._release_slot()
        self.slot = None  # it is released
        lease = self._acquire(self.model, self.client).wait()
        assert lease is not None
        self.waited_seconds += lease.waited_seconds
        return lease

    def _send(self, address: Address) -> None:
        """Send the request; on return the head of the answer is here."""
        assert self.model is not None and self.client is not None
        self.device, self.is_sent = address.device, True
        data = self.body.data if self.body else b""
        size_bytes = len(data) + self.options.repeated_bytes
        self.prompts = Prompts(self.options.prompts, size_bytes, address.context_tokens)
        send = partial(self.services.relay.send, address, client=self.client)
        self.answer = self._ask(data, send)
        self.releases.append(self.answer.close)
        if self.body:
            self.body.close()  # the engine has it
        self.first_byte_seconds = time.monotonic() - self.arrived_at
        self.services.gauges.first_byte(self.model.name, self.first_byte_seconds, self.waited_seconds)

    def _finish_load(self, write: Callable[[bytes], object]) -> None:
        """Write progress until the request was sent to its server. From now on an error is an event."""
        try:
            if self.model is None:
                self._finish_download(write)
            if self.answer is None:
                self._send_on(self._next_slot(write))
            assert self.answer is not None
            if not self.answer.is_stream:  # an error of the engine, mostly
                pieces: list[bytes] = []
                self.is_complete = self.answer.copy_body(pieces.append, None)
                write(self.request.error_form.engine_event(self.answer.status, b"".join(pieces)))
        except ProxyError as error:
            self.failure = error
            write(self.request.error_form.event(visible_error(self.request, error)))

    def _next_slot(self, write: Callable[[bytes], object]) -> Lease:
        assert self.model is not None and self.slot is not None
        name, setting = as_header(self.model.name), self.request.settings.loading_comments
        return loading_stream.write_progress(write, self.slot, name, self._server, self.route, setting)

    def _finish_download(self, write: Callable[[bytes], object]) -> None:
        assert self.download is not None and self.client is not None
        self.download.write_progress(self.client, write, self.route, self.request.settings.loading_comments)
        self._begin_with(self._find_model(self.options.model))
