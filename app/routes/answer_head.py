"""The head of an inference answer: the engine's status and headers, and ours."""

from __future__ import annotations

import functools
from urllib.parse import quote

from app.ports import EngineAnswer
from app.routes import loading_stream

HEADER_SAFE = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"  # printable ASCII but "%"; the rest of a name is percent-encoded
# llama-server answers 500 for requests that it cannot process (an image without a projector, an input longer than
# ubatch_size), 501 for what its start options disabled. SDKs repeat 5xx, here with the same result.
NOT_RETRIED = (500, 501)


def answer_head(
    answer: EngineAnswer | None,
    model: str,
    device: str,
    waited_seconds: float,
    request_id: str,
    is_peers: bool = False,
) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers. Without an answer: of a stream that begins with the progress of a load. `is_peers`: no
    llama-server of ours has answered."""
    ours = [
        ("x-llama-smart-proxy-model", as_header(model)),
        ("x-llama-smart-proxy-device", device),
        ("x-request-id", request_id),
    ]
    if answer is None:
        return 200, [*loading_stream.HEADERS, *ours]
    ours.append(("x-llama-smart-proxy-wait-ms", str(round(waited_seconds * 1000))))
    if answer.is_stream and not any(name.lower() == "x-accel-buffering" for name, _ in answer.headers):
        ours.append(("X-Accel-Buffering", "no"))
    if answer.status in NOT_RETRIED and not is_peers:
        ours.append(("x-should-retry", "false"))
    return answer.status, [*answer.headers, *ours]


@functools.lru_cache(maxsize=1024)
def as_header(name: str) -> str:
    """A model's name in the form of a header's value."""
    return quote(name, safe=HEADER_SAFE)
