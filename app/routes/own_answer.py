"""OwnAnswer: an answer that the proxy gives itself, where an exchange expects that of an engine."""

from __future__ import annotations

from collections.abc import Callable

from app.entities.token_usage import TokenUsage
from app.errors import ProxyError
from app.ports import ClientSocket


class OwnAnswer:
    """An EngineAnswer with status 200 whose body is known. It used no tokens."""

    status = 200
    failure: ProxyError | None = None

    def __init__(self, body: bytes, content_type: str, is_stream: bool = False) -> None:
        self.is_stream = is_stream
        self.headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        self._body = body

    def copy_body(self, write: Callable[[bytes], object], client_socket: ClientSocket | None) -> bool:
        write(self._body)
        return True

    def usage(self) -> TokenUsage:
        return TokenUsage(0, 0)

    def estimated_tokens(self) -> int:
        return 0

    def close(self) -> None:
        pass
