"""The inference paths of llama-server, and the paths that are never forwarded."""

from __future__ import annotations

# llama-server's routes that name a model (b11549, server.cpp). A request on one of these loads its model.
CHAT_ROUTES = ("/v1/chat/completions", "/chat/completions")
STREAMING_ROUTES = (
    *CHAT_ROUTES,
    *("/v1/completions", "/completions", "/completion", "/infill"),
    *("/v1/responses", "/responses", "/v1/messages"),
)
# Their answers are numbers: the engine reads prompts and writes no text.
EMBEDDING_ROUTES = ("/v1/embeddings", "/embeddings", "/embedding")
RERANK_ROUTES = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")
READING_ROUTES = (*EMBEDDING_ROUTES, *RERANK_ROUTES)
TRANSCRIPTION_ROUTES = ("/v1/audio/transcriptions", "/audio/transcriptions")
INFILL_ROUTES = ("/infill",)  # for models whose vocabulary has tokens for it
# The model computes nothing for these, so they use no tokens of a key.
ROUTES_WITHOUT_TOKENS = (
    *("/v1/responses/input_tokens", "/responses/input_tokens", "/v1/chat/completions/control"),
    *("/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"),
    *("/v1/messages/count_tokens", "/tokenize", "/detokenize", "/apply-template"),
    *("/lora-adapters", "/slots/<int:slot>", "/props"),
)
POST_ROUTES = (
    *STREAMING_ROUTES,
    *READING_ROUTES,
    *ROUTES_WITHOUT_TOKENS,
    *TRANSCRIPTION_ROUTES,
    "/v1/systemone",
)
GET_ROUTES = ("/slots", "/lora-adapters")  # and /props and /metrics, which are ours without ?model=
PLAIN_ROUTES = frozenset(route for route in POST_ROUTES if "<" not in route)  # found by comparison, without Flask

# What peers are sent, by its path here: routes that servers with OpenAI's API have, below their base URL.
_OF_PEERS = (
    *("/chat/completions", "/completions", "/responses", "/embeddings", "/audio/transcriptions", "/audio/speech"),
    *("/images/generations", "/moderations", "/rerank", "/messages", "/messages/count_tokens"),
)
PEER_PATHS = {f"/v1{path}": path for path in _OF_PEERS} | {"/chat/completions": "/chat/completions"}

# What clients whose base URL ends in /v1 ask for, although the route is not below /v1.
_WITHOUT_VERSION = {
    *("/completion", "/infill", "/embedding", "/tokenize", "/detokenize", "/apply-template"),
    *("/props", "/slots", "/lora-adapters", "/health"),
}

# A second name of llama-server's (builds of 2025) for a route. Here it is another route: only /upstream leads to it.
ENGINE_ALIASES = {"/api/chat": "/chat/completions"}

OTHER_PATH = "_other"  # the label of paths without a route

# Change what llama-server (b11549, server.cpp) does for all its clients: scales of adapters, properties, and, below
# /slots/, the cache of a slot.
ENGINE_SETTINGS = ("/lora-adapters", "/props")

# Never forwarded, to whatever model: they fetch URLs, run commands or reach other programs, address slots by a path
# that is not ours, or read and end streams of other clients (/v1/stream, /v1/streams/lookup).
DENIED = ("cors-proxy", "tools", "mcp", "agent", "slots", "stream")


# No engine has these, so they reach none: a request for them is a mistake in a client's configuration.
_HINTS = (
    ("/v1/v1/", "the base URL already ends in /v1, so the client must not add it"),
    ("/api/", "Ollama's API has no such route here; OpenAI's API is at /v1"),
)


def plain_path(path: str) -> str:
    """A request's path in the form of the routes: one slash in front, none at the end (except below /upstream, where
    an engine's web page needs it), and no /v1 before a route that is not below it."""
    path = f"/{path.lstrip('/')}"
    if len(path) > 1 and path.endswith("/") and not path.startswith("/upstream/"):
        path = path.rstrip("/")
    version, _, rest = path.partition("/v1")
    return rest if not version and rest in _WITHOUT_VERSION else path


def hint(path: str) -> str:
    """What to tell the client of a path that no engine has; "" if one may have it."""
    if path == "/v1":
        return "the base URL of OpenAI's clients; GET /v1/models lists the models"
    return next((text for start, text in _HINTS if path.startswith(start)), "")


def changes_engine(method: str, path: str) -> bool:
    """Whether a request changes what a llama-server does for its other clients. With keys, that takes an admin's."""
    return method == "POST" and (path in ENGINE_SETTINGS or path.startswith("/slots/"))


def may_be_forwarded(path: str) -> bool:
    """No segment begins with a denied name, and nothing could be read as another path."""
    segments = path.lower().split("/")[1:]
    is_plain = path.isprintable() and not {"", ".", ".."} & set(segments)
    return is_plain and not any(segment.startswith(DENIED) for segment in segments)
