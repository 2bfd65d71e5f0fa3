"""What an exception of the exchange with a peer means: for its breaker, and for the client."""

from __future__ import annotations

import errno

from app.errors import BadUpstream, ClientDisconnected, Overloaded, PeerUnavailable, ProxyError, UpstreamTimeout
from app.ports import WatchedClient
from workers.peers.api_keys import NoKey
from workers.peers.connecting import CannotConnect
from workers.relay.body import BadFraming, SendFailed
from workers.relay.reply import BadAnswer
from workers.relay.upstream import Unanswered

OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
SOON_SECONDS = 2.0


class RejectedAnswer(Exception):
    """An answer that clients must not get; the message says why."""


def not_the_peers(error: Exception, client: WatchedClient) -> ProxyError | None:
    """The error if the client, or this machine, is its cause; None if the peer is."""
    if isinstance(error, SendFailed) and error.errno is None:
        return ClientDisconnected(str(error))
    if client.is_disconnected or isinstance(error, SendFailed):
        return ClientDisconnected("the client closed its connection")
    if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
        return Overloaded(f"the peer cannot be reached: {error.strerror}; try again later")
    return None


def problem_of(error: Exception) -> str:
    """What is wrong with the peer."""
    match error:
        case CannotConnect():
            return str(error.strerror)
        case BadAnswer() | BadFraming():
            return f"its answer is not valid HTTP: {error}"
        case Unanswered():
            return "it closed the connection without an answer"
        case OSError():
            return error.strerror or str(error)
        case _:
            return str(error)


def client_error(error: Exception, peer: str, retry_seconds: float) -> ProxyError:
    """`retry_seconds`: until the peer is tried once more."""
    text = f"peer {peer}: {problem_of(error)}"
    match error:
        case CannotConnect():
            return PeerUnavailable(f"{text}; try again later", retry_seconds or SOON_SECONDS)
        case Unanswered(may_be_running=False):
            return PeerUnavailable(f"{text}; try again later", retry_seconds or SOON_SECONDS)
        case TimeoutError():
            settings = "upstream.first_byte_seconds or upstream.stall_seconds"
            return UpstreamTimeout(f"{error}; increase {settings} if it needs longer")
        case NoKey():
            return BadUpstream(f"{text}; correct the peer's key in the configuration of this service")
        case RejectedAnswer() | BadAnswer() | BadFraming():
            return BadUpstream(f"{text}; check the peer's url and key in the configuration of this service")
        case _:
            return BadUpstream(f"{text}; the request may have been worked on")
