"""Answers of llama-server in Ollama's form, as the answers of an exchange: streams of JSON lines, or one object."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from app.entities.token_usage import TokenUsage
from app.errors import BadUpstream, ProxyError, RequestTooLarge
from app.ports import ClientSocket, EngineAnswer
from app.routes.own_answer import OwnAnswer
from app.use_cases.ollama.answers import CUT, StreamTranslator, error_object, first_values, loaded_object, whole_object
from app.use_cases.ollama.pieces import nanoseconds
from app.use_cases.ollama.translation import EMBEDDINGS, Api, Translation
from app.use_cases.reporting.model_list import rfc3339

NDJSON = "application/x-ndjson"
JSON = "application/json"
DATA = b"data:"
_VECTOR = re.compile(rb'"embedding":\s*(\[[^\[\]]*+\])')
MAX_ERROR = 8192  # characters of an answer that is no JSON
MAX_WHOLE = 128 * 1024**2  # bytes of an answer that is no stream: it is in memory up to three times

Objects = Iterable[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every object of an answer has besides its content: the model, the time and, in the last one, the durations.

    Times are monotonic seconds.
    """

    model: str  # its name in the catalogue
    arrived_at: float
    waited_seconds: float  # for the slot, with the load

    def encoded(self, objects: Objects) -> bytes:
        """The objects as lines of JSON."""
        return b"".join(json.dumps(self._completed(each)).encode() + b"\n" for each in objects)

    def _completed(self, part: dict[str, Any]) -> dict[str, Any]:
        if "error" in part:
            return part
        now = rfc3339(time.time())
        return {"model": self.model, "created_at": now} | part | (self.durations if part.get("done") else {})

    @property
    def durations(self) -> dict[str, int]:
        return {
            "total_duration": nanoseconds(time.monotonic() - self.arrived_at),
            "load_duration": nanoseconds(self.waited_seconds),
        }


def loaded_answer(api: Api, envelope: Envelope, is_unload: bool) -> OwnAnswer:
    """The answer to a request that only loads or unloads its model: no engine has answered anything."""
    part = loaded_object(api, is_unload)
    return OwnAnswer(json.dumps(part).encode() if api is Api.EMBEDDINGS else envelope.encoded([part]), JSON)


class TranslatedAnswer:
    """An engine's answer, translated. One that is no stream is read as a whole before its head is sent."""

    def __init__(self, answer: EngineAnswer, translation: Translation, envelope: Envelope) -> None:
        """Raises ProxyError if the answer is cut before its head was sent."""
        self._answer = answer
        self._translation = translation
        self._envelope = envelope
        self._data = b"" if answer.is_stream else self._whole(_read(answer))
        self.headers = [("Content-Type", NDJSON if answer.is_stream else JSON)]
        if not answer.is_stream:
            self.headers.append(("Content-Length", str(len(self._data))))

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def is_stream(self) -> bool:
        return self._answer.is_stream

    @property
    def failure(self) -> ProxyError | None:
        return self._answer.failure

    def copy_body(self, write: Callable[[bytes], object], client_socket: ClientSocket | None) -> bool:
        """As EngineAnswer.copy_body. The client's socket is for the engine's own bytes only."""
        write(self._data)  # of a stream, the head alone: the first token may take a while
        if not self.is_stream:
            return True
        events, translator = Events(), StreamTranslator(self._translation)

        def translate(piece: bytes) -> None:
            objects = [each for event in events.read(piece) for each in translator.objects(event)]
            if objects:
                write(self._envelope.encoded(objects))

        is_complete = self._answer.copy_body(translate, None)
        if objects := translator.end():
            write(self._envelope.encoded(objects))
        return is_complete

    def usage(self) -> TokenUsage:
        return self._answer.usage()

    def estimated_tokens(self) -> int:
        return 0 if self._translation.path == EMBEDDINGS else self._answer.estimated_tokens()

    def close(self) -> None:
        self._answer.close()

    def _whole(self, data: bytes) -> bytes:
        if self.status >= 300:
            return self._envelope.encoded([error_object(_parsed(data))])
        if self._translation.path == EMBEDDINGS:
            return self._embeddings(data)
        return self._envelope.encoded([whole_object(_parsed(data), self._translation)])

    def _embeddings(self, data: bytes) -> bytes:
        """The vectors are copied as text: to parse many would take Python's lock for long."""
        vectors = [match[1] for match in _VECTOR.finditer(data)]
        if (dimensions := self._translation.dimensions) is not None:
            vectors = [json.dumps(first_values(json.loads(vector), dimensions)).encode() for vector in vectors]
        if self._translation.api is Api.EMBEDDINGS:
            return b'{"embedding":' + (vectors[0] if vectors else b"[]") + b"}\n"
        rest = {"model": self._envelope.model} | self._envelope.durations
        rest |= {"prompt_eval_count": self.usage().prompt_tokens or 0}
        return json.dumps(rest).encode()[:-1] + b',"embeddings":[' + b",".join(vectors) + b"]}\n"


class Events:
    """The events of a stream, parsed from its bytes. llama-server writes each as one line."""

    def __init__(self) -> None:
        self._unread = b""

    def read(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The events that the next piece of the body completes. What cannot be read is an error."""
        *lines, self._unread = (self._unread + piece).split(b"\n")
        for line in lines:
            if line.startswith(DATA) and (text := line[len(DATA) :].strip()) != b"[DONE]":
                event = _parsed(text)
                yield event if isinstance(event, dict) else {"error": {"message": CUT}}


def _read(answer: EngineAnswer) -> bytes:
    """Raises RequestTooLarge, and ProxyError if the answer is cut."""
    pieces: list[bytes] = []
    size = 0

    def add(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > MAX_WHOLE:
            raise RequestTooLarge(
                f"the answer has more than {MAX_WHOLE} bytes: send fewer texts, or use /v1/embeddings"
            )
        pieces.append(piece)

    try:
        answer.copy_body(add, None)
    except ConnectionResetError as error:
        raise answer.failure or BadUpstream(str(error)) from error
    return b"".join(pieces)


def _parsed(data: bytes) -> Any:
    """JSON, or the text of what is none."""
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")[:MAX_ERROR]
