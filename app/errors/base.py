"""ProxyError: the root of the tree of errors that clients get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class ProxyError(Exception):
    """Any error of ours that a client sees. `retry_after`: seconds after which to try again."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retry_after: int | None = None
    should_retry: ClassVar[bool] = True  # False: SDKs would repeat the request because of its status
    param: str | None = None
    names_models: ClassVar[bool] = False  # the message may name other models than the request's
    challenges: tuple[str, ...] = ()  # WWW-Authenticate, one header each: browsers do not parse a list

    def __init__(self, message: str, *, fields: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.fields = dict(fields or {})

    @property
    def body(self) -> dict[str, dict[str, object]]:
        error: dict[str, object] = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error | self.fields}

    @property
    def headers(self) -> dict[str, str]:
        """Its response headers."""
        headers = {"x-llama-smart-proxy-error": "1"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        elif not self.should_retry or self.status >= 500 or self.status in (408, 422):
            headers["x-should-retry"] = "false"  # SDKs would repeat these requests
        return headers
