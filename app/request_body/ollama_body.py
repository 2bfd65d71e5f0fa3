"""The body of an Ollama request as that of llama-server's, and what its answer's translation depends on."""

from __future__ import annotations

import json
from dataclasses import dataclass

from app.entities.media_urls import ANY_MEDIA
from app.errors import InvalidRequest
from app.request_body.buffer import Buffer
from app.request_body.content import MAX_NAME
from app.request_body.json_body import read_json
from app.use_cases.ollama.requests import engine_request
from app.use_cases.ollama.translation import Api, NotTranslatable, Translation

MAX_DIGITS = 300  # of an integer: no number that a float could hold has more


def translated(body: Buffer, api: Api) -> tuple[bytes, Translation]:
    """The engine's body, which the caller reads once more, and checks. Raises InvalidRequest."""
    pairs = read_json(body, ANY_MEDIA, may_be_a_list=False)  # valid JSON of a bounded size and depth
    if sum(key == "model" for key, _ in pairs) > 1:
        raise InvalidRequest('the body has more than one "model"', param="model")
    try:
        found = engine_request(api, json.loads(body[:], parse_int=_number))
        return _encoded(found.body), found.translation
    except NotTranslatable as problem:
        raise InvalidRequest(str(problem), problem.param) from problem


@dataclass(frozen=True, slots=True)
class NameRequest:
    """A request about one model, and nothing else."""

    name: str  # "" if it names none
    streams: bool


def name_request(body: Buffer) -> NameRequest:
    """The model that a request names, by either of Ollama's keys. Raises InvalidRequest."""
    pairs = dict(read_json(body, ANY_MEDIA, may_be_a_list=False))
    value = pairs.get("model") or pairs.get("name") or ""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise InvalidRequest(f'"model" is not a string of at most {MAX_NAME} characters', param="model")
    return NameRequest(value.strip(), pairs.get("stream") is not False)


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < MAX_DIGITS else float(digits)


def _encoded(value: dict[str, object]) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can express
        return json.dumps(value, separators=(",", ":")).encode()
    except ValueError as error:
        raise InvalidRequest("a number in the body is out of range") from error
