"""The inference paths of llama-server, and the paths that are never forwarded."""

from __future__ import annotations

# llama-server's routes that name a model (b11434, server.cpp), and what OpenAI's clients put before some of them.
STREAMING_ROUTES = (
    *("/v1/chat/completions", "/chat/completions", "/v1/completions", "/completions", "/completion", "/infill"),
    *("/v1/responses", "/responses", "/v1/messages"),
)
# Their answers are numbers: the engine reads prompts and writes no text.
READING_ROUTES = (
    *("/v1/embeddings", "/embeddings", "/embedding", "/v1/rerank", "/v1/reranking", "/rerank", "/reranking"),
)
# The model computes nothing for these, so they use no tokens of a key.
ROUTES_WITHOUT_TOKENS = (
    *("/v1/responses/input_tokens", "/v1/chat/completions/input_tokens", "/v1/chat/completions/control"),
    *("/v1/messages/count_tokens", "/tokenize", "/detokenize", "/apply-template"),
    *("/lora-adapters", "/slots/<int:slot>", "/props"),
)
POST_ROUTES = (
    *STREAMING_ROUTES,
    *READING_ROUTES,
    *ROUTES_WITHOUT_TOKENS,
    *("/v1/systemone", "/v1/audio/transcriptions", "/audio/transcriptions"),
)
GET_ROUTES = ("/slots", "/lora-adapters")  # and /props and /metrics, which are ours without ?model=
PLAIN_ROUTES = frozenset(route for route in POST_ROUTES if "<" not in route)  # found by comparison, without Flask

OTHER_PATH = "_other"  # the label of paths without a route

# Change what llama-server (b11549, server.cpp) does for all its clients: scales of adapters, properties, and, below
# /slots/, the cache of a slot.
ENGINE_SETTINGS = ("/lora-adapters", "/props")

# Never forwarded, to whatever model: they fetch URLs, run commands or reach other programs, address slots by a path
# that is not ours, or read and end streams of other clients (/v1/stream, /v1/streams/lookup).
DENIED = ("cors-proxy", "tools", "mcp", "agent", "slots", "stream")


def changes_engine(method: str, path: str) -> bool:
    """Whether a request changes what a llama-server does for its other clients. With keys, that takes an admin's."""
    return method == "POST" and (path in ENGINE_SETTINGS or path.startswith("/slots/"))


def may_be_forwarded(path: str) -> bool:
    """No segment begins with a denied name, and nothing could be read as another path."""
    segments = path.lower().split("/")[1:]
    is_plain = path.isprintable() and not {"", ".", ".."} & set(segments)
    return is_plain and not any(segment.startswith(DENIED) for segment in segments)
