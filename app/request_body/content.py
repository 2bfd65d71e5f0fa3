"""What is read from a body, whichever its format. The engine gets the client's own bytes: the name that decides here
must be the one that the engine would read too, and anything that could be read in two ways is rejected."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.capabilities import MediaPart
from app.entities.media_urls import DATA_ONLY, MediaUrls
from app.errors import InvalidRequest
from app.request_body.buffer import Buffer
from app.request_body.json_body import read_json
from app.request_body.options import keep_alive_seconds, opening_hash, prompt_count, query_bytes, requested_context
from app.request_body.requirements import media_parts, offers_tools, requires_tool_call
from app.use_cases.body_checks.constraints import MAX_GRAMMAR, excessive_constraint

MULTIPART = "multipart/form-data"
MAX_NAME = 512  # characters
OPTION_KEYS = {"stream", "keep_alive", "ttl", "num_ctx", "options"}


@dataclass(frozen=True, slots=True)
class BodyFormat:
    """What the head and the settings say about how to read the body."""

    mimetype: str = "application/json"
    boundary: str = ""  # of a form
    is_named: bool = False  # the query names the model, so the body need not
    media_urls: MediaUrls = DATA_ONLY
    wants_conversation: bool = False  # a model may have several servers


@dataclass(frozen=True, slots=True)
class BodyContent:
    """What a body says. All of it is small, however large the body is."""

    names: tuple[str, ...] = ()  # its "model"; at most one
    streams: bool = False
    keep_alive_seconds: float | None = None
    num_ctx: int | None = None
    conversation: int | None = None
    prompts: int = 1  # or more: members of its longest list of texts
    repeated_bytes: int = 0  # of what is in it once, and read again with every prompt
    media: tuple[MediaPart, ...] = ()  # the first of each kind
    requires_tool: bool = False  # the answer must call one
    offers_tools: bool = False


def read_content(body: Buffer, form: BodyFormat) -> BodyContent:
    """Read the body. Raises InvalidRequest for what cannot be parsed or is ambiguous."""
    if form.mimetype == MULTIPART:
        return BodyContent(tuple(_names_in_form(body, form.boundary)))
    pairs = read_json(body, form.media_urls, may_be_a_list=form.is_named)
    names = _checked([value for key, value in pairs if key == "model"], "the body")
    conversation = opening_hash(pairs) if form.wants_conversation else None
    prompts = prompt_count(pairs)
    repeated_bytes = (prompts - 1) * query_bytes(pairs) if prompts > 1 else 0
    options = [pair for pair in pairs if pair[0] in OPTION_KEYS]
    streams = any(key == "stream" and value is True for key, value in options)
    keep_alive, context = keep_alive_seconds(options), requested_context(options)
    requirements = media_parts(pairs), requires_tool_call(pairs), offers_tools(pairs)
    options_read = streams, keep_alive, context, conversation, prompts, repeated_bytes
    return BodyContent(tuple(names), *options_read, *requirements)


def _names_in_form(body: Buffer, boundary: str) -> list[str]:
    """Of the other fields, which the engine reads as strings, only a grammar could ask too much."""
    from app.request_body.form import fields_in_form  # werkzeug takes long to load

    fields = fields_in_form(body, boundary, {"model": 4 * MAX_NAME, "grammar": 4 * MAX_GRAMMAR})
    for grammar in fields["grammar"]:
        if found := excessive_constraint((("grammar", grammar),)):
            raise InvalidRequest(f"{found.param}: {found.message}", found.param)
    return _checked(fields["model"], "the form")


def _checked(names: list[object] | list[str], place: str) -> list[str]:
    """null names no model, as "" does."""
    strings = ["" if name is None else name for name in names if name is None or isinstance(name, str)]
    if len(strings) < len(names):
        raise InvalidRequest('"model" is not a string', param="model")
    return at_most_one(strings, place)


def at_most_one(names: list[str], place: str) -> list[str]:
    """The names, stripped. Raises InvalidRequest for more than one, or one that is too long to be a model's."""
    if len(names) > 1:
        raise InvalidRequest(f'{place} has more than one "model"', param="model")
    names = [name.strip() for name in names]
    if any(len(name) > MAX_NAME for name in names):
        raise InvalidRequest(f'"model" is longer than {MAX_NAME} characters', param="model")
    return names
