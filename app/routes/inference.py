"""Inference: a request's `model` picks the server, its bytes go there unchanged, the answer comes back as it is."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as flask_request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import NotFound as NoSuchRule

from app.errors import InvalidRequest, ProxyError
from app.routes.answers import WsgiResponse
from app.routes.exchange import Exchange
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.paths import GET_ROUTES, OTHER_PATH, POST_ROUTES, may_be_passed_on

bp = Blueprint("inference", __name__)

ENDPOINT = "inference.infer_by_flask"
PASSED_ON = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def infer(request: IncomingRequest, route: str) -> WsgiResponse:
    """Route by the request's `model`; wait for its server, or take it as it is for a GET; stream the answer.

    Raises the ProxyError that says why there is none.
    """
    exchange = Exchange(request, route)
    try:
        return exchange.run()
    except BaseException as error:
        exchange.end(_status_of(error))
        raise


def infer_by_flask(slot: int | None = None) -> Response:
    if slot is not None and current_request().arguments("action") != ["erase"]:
        why = "slots are saved and restored by the service alone (keep_kv_cache), or one client would read another's"
        raise InvalidRequest(f'{why}: "action" may be "erase"', param="action")
    return as_flask(infer(current_request(), flask_request.url_rule.rule if flask_request.url_rule else OTHER_PATH))


def as_flask(answer: WsgiResponse) -> Response:
    response = Response(answer.body, status=answer.status)
    response.headers.clear()
    response.headers.extend(answer.headers)
    # Not in the generator's finally: a client that leaves before the first byte never starts the generator.
    response.call_on_close(getattr(answer.body, "close", bool))
    return response


for path in POST_ROUTES:
    bp.post(path)(infer_by_flask)
for path in GET_ROUTES:
    bp.get(path)(infer_by_flask)


@bp.before_app_request
def pass_on() -> Response | None:
    """A path that is none of ours goes to the model that its JSON body names, as in the original service."""
    if not isinstance(flask_request.routing_exception, NoSuchRule):
        return None
    request = current_request()
    is_form = request.mimetype == "multipart/form-data"
    if not request.has_body or is_form or request.method not in PASSED_ON or not may_be_passed_on(request.path):
        return None
    return infer_by_flask()


def _status_of(error: BaseException) -> int:
    """The status that the client of a request which ended so will see."""
    cause = error.__cause__
    for each in (error, cause):
        if isinstance(each, ProxyError):
            return each.status
    if isinstance(error, HTTPException):
        return error.code or 500
    return 500 if isinstance(error, Exception) else 400  # what is no Exception is a body that could not be read
