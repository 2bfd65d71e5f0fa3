"""The bytes of an engine's answer, as Ollama's clients get them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.entities.token_usage import TokenUsage
from app.errors import ProxyError, RequestTooLarge, UpstreamCrashed
from app.errors.forms import ErrorForm
from app.routes.ollama_answer import Envelope, TranslatedAnswer, loaded_answer
from app.routes.own_answer import OwnAnswer
from app.use_cases.ollama.translation import CHAT, EMBEDDINGS, Api, Translation

STREAM = Translation(Api.CHAT, CHAT, streams=True)
WHOLE = Translation(Api.CHAT, CHAT)


class Engine:
    """An engine's answer that arrives in these pieces."""

    def __init__(self, *pieces: bytes, is_stream: bool = False, status: int = 200, is_cut: bool = False) -> None:
        self.pieces, self.is_stream, self.status, self.is_cut = pieces, is_stream, status, is_cut
        self.headers = [("Content-Type", "text/event-stream"), ("Content-Length", "7")]
        self.failure: ProxyError | None = UpstreamCrashed("the engine ended") if is_cut else None

    def copy_body(self, write: Callable[[bytes], object], client_socket: object) -> bool:
        assert client_socket is None
        for piece in self.pieces:
            write(piece)
        if self.is_cut and not self.is_stream:
            raise ConnectionResetError
        if self.failure:
            write(b"\n\n" + ErrorForm.OPENAI.event(self.failure))
        return not self.is_cut

    def usage(self) -> TokenUsage:
        return TokenUsage(5, 7)

    def estimated_tokens(self) -> int:
        return 9

    def close(self) -> None:
        pass


def envelope() -> Envelope:
    return Envelope("m", time.monotonic(), 1.5)


def answer(engine: Engine, translation: Translation) -> TranslatedAnswer:
    return TranslatedAnswer(engine, translation, envelope())


def written(found: TranslatedAnswer | OwnAnswer) -> bytes:
    pieces: list[bytes] = []
    assert found.copy_body(pieces.append, None) in (True, False)
    return b"".join(pieces)


def event(**fields: Any) -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": None} | fields
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


A_STREAM = event(delta={"content": "é"}) + b": ping\n\n" + event(finish_reason="stop") + b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_arrives_in_pieces_of_any_size(size: int):
    pieces = [A_STREAM[at : at + size] for at in range(0, len(A_STREAM), size)]
    found = answer(Engine(*pieces, is_stream=True), STREAM)
    text, done = map(json.loads, written(found).splitlines())
    assert (text["model"], text["message"]["content"], text["done"]) == ("m", "é", False)
    assert (done["done"], done["done_reason"], done["load_duration"]) == (True, "stop", 1_500_000_000)
    assert done["total_duration"] > 0 and text["created_at"].endswith("Z")
    assert found.headers == [("Content-Type", "application/x-ndjson")]


def test_the_head_of_a_stream_is_sent_before_its_first_token():
    pieces: list[bytes] = []
    answer(Engine(event(delta={"content": None}), is_stream=True), STREAM).copy_body(pieces.append, None)
    assert pieces[0] == b""


def test_a_cut_stream_ends_with_an_error():
    engine = Engine(event(delta={"content": "a"}), b'data: {"cho', is_stream=True, is_cut=True)
    found = answer(engine, STREAM)
    *_, last = written(found).splitlines()
    assert list(json.loads(last)) == ["error"]
    assert found.failure is engine.failure


@pytest.mark.parametrize("junk", [b"data: {\n\n", b"data: 5\n\n", b"data: null\n\n"])
def test_an_event_that_cannot_be_read_is_an_error(junk: bytes):
    lines = written(answer(Engine(junk, A_STREAM, is_stream=True), STREAM)).splitlines()
    assert [list(json.loads(line)) for line in lines] == [["error"]]


def test_a_whole_answer_has_a_length():
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    data = json.dumps({"choices": [choice]}).encode()
    found = answer(Engine(data[:9], data[9:]), WHOLE)
    body = written(found)
    assert json.loads(body)["message"]["content"] == "Hi"
    assert found.headers == [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]


def test_a_whole_answer_that_is_cut_has_its_own_status():
    with pytest.raises(UpstreamCrashed):
        answer(Engine(b'{"choices"', is_cut=True), WHOLE)


@pytest.mark.parametrize(("data", "text"), [(b'{"error": {"message": "no"}}', "no"), (b"<html>", "<html>")])
def test_an_error_of_the_engine_is_a_text_with_its_status(data: bytes, text: str):
    found = answer(Engine(data, status=501), STREAM)
    assert (found.status, json.loads(written(found))) == (501, {"error": text})


VECTORS = b'{"model":"m","usage":{"prompt_tokens":5},"data":[{"embedding":[3.0,4]},{"embedding":[0.1,-2e-3]}]}'


def test_embeddings_are_copied_as_they_are_written():
    found = answer(Engine(VECTORS), Translation(Api.EMBED, EMBEDDINGS))
    body = written(found)
    assert b'"embeddings":[[3.0,4],[0.1,-2e-3]]' in body
    parsed = json.loads(body)
    assert (parsed["model"], parsed["prompt_eval_count"], parsed["load_duration"]) == ("m", 5, 1_500_000_000)
    assert (found.usage().prompt_tokens, found.estimated_tokens()) == (5, 0)
    shorter = answer(Engine(VECTORS), Translation(Api.EMBED, EMBEDDINGS, dimensions=1))
    assert json.loads(written(shorter))["embeddings"] == [[1.0], [1.0]]


def test_the_old_route_has_one_embedding():
    assert json.loads(written(answer(Engine(VECTORS), Translation(Api.EMBEDDINGS, EMBEDDINGS)))) == {
        "embedding": [3.0, 4]
    }


@pytest.mark.parametrize(("is_unload", "reason"), [(False, "load"), (True, "unload")])
def test_a_load_is_answered_without_an_engine(is_unload: bool, reason: str):
    found = loaded_answer(Api.GENERATE, envelope(), is_unload)
    parsed = json.loads(written(found))
    assert (parsed["model"], parsed["response"], parsed["done_reason"]) == ("m", "", reason)
    assert (found.usage(), found.status) == (TokenUsage(0, 0), 200)
    assert json.loads(written(loaded_answer(Api.EMBEDDINGS, envelope(), False))) == {"embedding": []}


def test_the_vectors_of_one_answer_do_not_take_all_memory():
    """A limit of a body does not bound them: each text of a few bytes has a vector of 50 KB."""
    piece = bytes(1024**2)
    with pytest.raises(RequestTooLarge, match="/v1/embeddings"):
        answer(Engine(*[piece] * 129), Translation(Api.EMBED, EMBEDDINGS))
