"""Errors of the request: what it says, who sent it, how it arrived."""

from __future__ import annotations

from collections.abc import Sequence

from app.errors.base import ProxyError


class InvalidRequest(ProxyError):
    """The request cannot be parsed: not a JSON object, an invalid field, ambiguous framing."""

    status, type, code = 400, "invalid_request_error", "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(ProxyError):
    """The request asks for more context (`num_ctx`) than its model has."""

    status, type, code = 400, "invalid_request_error", "context_length_exceeded"
    param = "num_ctx"

    def __init__(self, model: str, requested_tokens: int, available_tokens: int, is_loaded: bool) -> None:
        state = "is loaded with" if is_loaded else "is never loaded with more than"
        super().__init__(
            f"num_ctx {requested_tokens}: {model} {state} {available_tokens} tokens of context; reduce num_ctx, "
            "or raise the model's ctx_size"
        )


class MissingModel(ProxyError):
    """The request names no model."""

    status, type, code = 400, "invalid_request_error", "missing_model"
    param = "model"

    def __init__(self) -> None:
        super().__init__(
            'the request names no model: add "model" to the JSON body, or ?model= to a GET (/v1/models lists the '
            "names), or set catalog.default_model"
        )


class InvalidApiKey(ProxyError):
    """Keys are configured, and the request has none of them."""

    status, type, code = 401, "authentication_error", "invalid_api_key"

    def __init__(self, has_credentials: bool, is_browser: bool = False, is_remembered: bool = False) -> None:
        problem = "unknown API key" if has_credentials else "this service requires an API key"
        if is_remembered:
            problem = "a password that a browser remembers does not count for a page of another site"
        super().__init__(f"{problem}; send Authorization: Bearer KEY, or x-api-key: KEY")
        # A browser prompts for a password only if Basic is offered.
        self.challenges = (
            ("Bearer", 'Basic realm="Llama Smart Proxy: any name, your key"') if is_browser else ("Bearer",)
        )


class NotAllowed(ProxyError):
    """The key may not do this, or the Host or Origin of a request without a key is not local."""

    status, type, code = 403, "permission_error", "not_allowed"


class ModelNotFound(ProxyError):
    """The catalogue has no such name."""

    status, type, code = 404, "invalid_request_error", "model_not_found"
    param = "model"

    def __init__(self, name: str, advice: str = "GET /v1/models lists the names", near: Sequence[str] = ()) -> None:
        """`near`: similar names, which the client may see."""
        self.name, self.near = name, near
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        super().__init__(f"model {name[:200]!r} not found; {hint}{advice}")


class InvalidModelFile(ProxyError):
    """The model's files are missing, truncated, damaged, or not a model; the message says which."""

    status, type, code = 422, "invalid_request_error", "invalid_model_file"
    param = "model"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"model {name!r} cannot be served: {problem}")
        self.problem = problem  # without the name, for callers that have another


class RequestCrashesEngine(ProxyError):
    """The same request has ended its llama-server twice, the second time while it ran alone."""

    status, type, code = 422, "invalid_request_error", "request_crashes_engine"


class NotFound(ProxyError):
    """No such path."""

    status, type, code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(ProxyError):
    """The path exists, the method does not."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class RequestTimeout(ProxyError):
    """The client did not send its whole request in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class RequestTooLarge(ProxyError):
    """The body is larger than `server.max_body`."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class UnsupportedEncoding(ProxyError):
    """The body has a Content-Encoding that is not understood."""

    status, type, code = 415, "invalid_request_error", "unsupported_encoding"

    def __init__(self, given: str, accepted: Sequence[str]) -> None:
        self.accepted = ", ".join(accepted)
        super().__init__(f"Content-Encoding {given!r} is not supported; send {self.accepted} (two at most) or none")

    @property
    def headers(self) -> dict[str, str]:
        return super().headers | {"Accept-Encoding": self.accepted}


class UriTooLong(ProxyError):
    """The request line is longer than the server reads."""

    status, type, code = 414, "invalid_request_error", "invalid_request"


class ExpectationFailed(ProxyError):
    """An `Expect` header asks for something other than 100-continue."""

    status, type, code = 417, "invalid_request_error", "invalid_request"


class HeadTooLarge(ProxyError):
    """The headers are larger than the server reads."""

    status, type, code = 431, "invalid_request_error", "invalid_request"


class ClientDisconnected(ProxyError):
    """The client closed its connection. Nobody reads this answer; its status is for log and metrics."""

    status, type, code = 499, "invalid_request_error", "client_left"


class InvalidConfiguration(ProxyError):
    """A reload found errors in the configuration; the earlier one stays in force."""

    status, type, code = 422, "invalid_request_error", "invalid_configuration"

    def __init__(self, errors: Sequence[str]) -> None:
        message = "the configuration was not reloaded, the earlier one stays in force:\n" + "\n".join(errors)
        super().__init__(message, fields={"errors": list(errors)})
