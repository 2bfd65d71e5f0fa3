"""Which model a request is for: named by its JSON body, by a field of its form, or by `?model=`; and its options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from app.entities.capabilities import MediaPart
from app.entities.request_rules import RequestRules
from app.errors import InvalidRequest, MissingModel, ModelNotFound
from app.ports import RequestBody
from app.request_body.content import MULTIPART, BodyContent, BodyFormat, at_most_one
from app.request_body.options import CONVERSATION_HEADERS, hash_of_text
from app.request_body.rewriting import rewritten
from app.routes.incoming_request import IncomingRequest
from app.routes.paths import changes_engine
from app.routes.visibility import default_model, find_model


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What is read from a request."""

    model: str  # its name, without surrounding white space
    streams: bool = False  # the answer is requested as events
    keep_alive_seconds: float | None = None  # how long the model stays loaded afterwards; None: as the settings say
    num_ctx: int | None = None  # tokens of context
    conversation: int | None = None  # a hash of what its requests have in common, if the model may have several servers
    prompts: int = 1  # or more
    repeated_bytes: int = 0  # of the body, that the engine reads again with every prompt
    media: tuple[MediaPart, ...] = ()  # the first of each kind
    requires_tool: bool = False  # the answer must call one
    offers_tools: bool = False


def read_request(
    request: IncomingRequest, body: RequestBody | None, in_path: str = "", must_name: bool = False
) -> RequestOptions:
    """Which model the request is for, and its other options. One that names none is for the default model. `in_path`:
    the model's name, if the path has it; what the body names does not matter then.

    Raises InvalidRequest for what cannot be parsed or is ambiguous, MissingModel without a model; if it `must_name`
    one, there is no default.
    """
    in_address = [in_path] if in_path else request.arguments("model")
    content = _content(request, body, is_named=any(in_address))
    model = in_path or _model(request, [*at_most_one(in_address, "the query"), *content.names])
    if not model and not must_name:
        model = default_model(request)
    if not model:
        raise MissingModel
    conversation = _conversation(request, content, model)
    options = content.streams, content.keep_alive_seconds, content.num_ctx, conversation
    requirements = content.media, content.requires_tool, content.offers_tools
    return RequestOptions(model, *options, content.prompts, content.repeated_bytes, *requirements)


def _content(request: IncomingRequest, body: RequestBody | None, is_named: bool) -> BodyContent:
    """`is_named`: the query names the model, so the body need not."""
    if body is None or (not len(body) and (is_named or request.method in ("GET", "HEAD"))):
        return BodyContent()
    return body.content(_format(request, is_named))


def _format(request: IncomingRequest, is_named: bool) -> BodyFormat:
    boundary = request.boundary if request.mimetype == MULTIPART else ""
    wants_conversation = request.services.catalog.knows_replicas
    return BodyFormat(request.mimetype, boundary, is_named, request.settings.media_urls, wants_conversation)


def apply_rules(
    request: IncomingRequest, body: RequestBody | None, options: RequestOptions, rules: RequestRules
) -> RequestOptions:
    """Change the body by its model's rules; returns the options that it has then. A form's fields stay as they are.

    Raises InvalidRequest, and Overloaded if the new body does not fit into the budget.
    """
    is_json = body is not None and len(body) and request.mimetype != MULTIPART
    if not rules or not is_json or changes_engine(request.method, request.path):
        return options
    assert body is not None
    content = body.rewrite(partial(rewritten, rules=rules, path=request.path, form=_format(request, is_named=True)))
    return replace(
        options,
        keep_alive_seconds=content.keep_alive_seconds,
        num_ctx=content.num_ctx,
        prompts=content.prompts,
        repeated_bytes=content.repeated_bytes,
        media=content.media,
        requires_tool=content.requires_tool,
        offers_tools=content.offers_tools,
    )


def _model(request: IncomingRequest, values: list[str]) -> str:
    """Its name; "" if it names none."""
    names = list(dict.fromkeys(name for value in values if (name := value.strip())))
    if len(names) > 1 and not _name_one_model(request, names):
        raise InvalidRequest("the query and the body name different models", param="model")
    return names[-1] if names else ""


def _name_one_model(request: IncomingRequest, names: list[str]) -> bool:
    """Whether they are an alias and the name of a model, say. One that the key may not use is none."""
    try:
        return len({find_model(request, name).name for name in names}) == 1
    except ModelNotFound:
        return False


def _conversation(request: IncomingRequest, content: BodyContent, model: str) -> int | None:
    """The hash of what identifies it: one of the CONVERSATION_HEADERS, else its beginning."""
    catalog = request.services.catalog
    if not catalog.knows_replicas or not catalog.has_replicas(model):
        return None
    name = next(filter(None, map(request.header, CONVERSATION_HEADERS)), "")
    return hash_of_text(name) if name else content.conversation
