"""/upstream/MODEL/PATH: any path of a model's llama-server, its web page included, as llama-swap has it. For admins.

The path names the model, which is loaded for it, and the rest goes to the engine with its body as it is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from urllib.parse import quote

from flask import Blueprint, Response

from app.entities.model import Model
from app.errors import ModelNotFound
from app.ports import BodyFile, EngineAnswer
from app.routes.error_response import no_such_path
from app.routes.exchange import Exchange, respond
from app.routes.incoming_request import PATH_SAFE, IncomingRequest, current_request
from app.routes.inference import FORWARDED_METHODS, InferenceResponse
from app.routes.paths import ENGINE_ALIASES, PLAIN_ROUTES, may_be_forwarded
from app.routes.peer_exchange import Send
from app.routes.requested_model import RequestOptions, read_request
from app.routes.visibility import find_model, known_model

bp = Blueprint("upstream", __name__)

ROUTE = "/upstream"  # its label in metrics
MAX_NAME_SEGMENTS = 8  # a name may contain slashes
# Of a GET, for pages: llama-server has its own only compressed.
PAGE_HEADERS = ("Accept-Encoding", "If-None-Match", "Range")


@bp.route("/upstream/<path:rest>", methods=FORWARDED_METHODS)
def forward_upstream(rest: str) -> Response:
    """`rest` is read anew from the request, with its slashes."""
    request = current_request()
    model, path = _split(request, request.path.removeprefix("/upstream/"))
    if not path:  # the page's own paths are relative to this one
        return Response(status=301, headers={"Location": f"{quote(model.name.rpartition('/')[2], safe='')}/"})
    if not _may_reach_engine(request.method, path):
        raise no_such_path(request)
    return InferenceResponse(request, ROUTE, partial(respond, kind=partial(_UpstreamExchange, model=model, path=path)))


def _split(request: IncomingRequest, rest: str) -> tuple[Model, str]:
    """The model that the beginning of a path names, and what follows it: "" or with a slash in front.

    The shortest beginning that is a name, as in llama-swap. Raises ModelNotFound.
    """
    segments = rest.split("/")
    for count in range(1, min(len(segments), MAX_NAME_SEGMENTS) + 1):
        name = "/".join(segments[:count])
        try:
            model = known_model(request, name)
        except ModelNotFound:
            continue
        return model, "".join(f"/{segment}" for segment in segments[count:])
    return find_model(request, segments[0]), "".join(f"/{segment}" for segment in segments[1:])


def _may_reach_engine(method: str, path: str) -> bool:
    if path == "/" or (path == "/slots" and method in ("GET", "HEAD")):
        return True
    return may_be_forwarded(path.removesuffix("/"))


class _UpstreamExchange(Exchange):
    """Used by its request's own thread alone."""

    def __init__(self, request: IncomingRequest, route: str, model: Model, path: str) -> None:
        super().__init__(request, route)
        self.may_load = self.takes_slot = True
        self._name = model.name
        self._path = path
        self._known_path = ENGINE_ALIASES.get(path, path)

    def _read_request(self) -> None:
        """Options are read, and checked, where the engine would."""
        self.options = RequestOptions(self._name)
        if not self.request.has_body:
            return
        self.body = self.request.receive_body()
        self.releases.append(self.body.close)
        if self._known_path in PLAIN_ROUTES and self.request.method == "POST":
            self.options = read_request(self.request, self.body, self._name)

    def _apply_rules(self, model: Model) -> None:
        """None: an admin asks the engine itself."""

    def _ask(self, data: bytes | BodyFile, send: Send) -> EngineAnswer:
        request = self.request.for_engine(data)
        query = request.target.partition("?")[2]
        target = quote(self._path, safe=PATH_SAFE) + (f"?{query}" if query else "")
        headers = {**request.headers, **self._more_headers()}
        return send(replace(request, target=target, headers=headers))

    def _more_headers(self) -> dict[str, str]:
        names: tuple[str, ...] = () if self._known_path in PLAIN_ROUTES else ("Content-Type",)
        if self.request.method in ("GET", "HEAD"):
            names += PAGE_HEADERS
        return {name: value for name in names if (value := self.request.header(name))}

    def tokens_of_key(self, route: str) -> int:
        """As on the path itself."""
        return super().tokens_of_key(self._known_path) if self._known_path in PLAIN_ROUTES else 0
