"""RequestReading: the part of an exchange that reads the request, and checks whether a model can answer it."""

from __future__ import annotations

from collections.abc import Callable

from app.entities.model import Model
from app.errors import InvalidRequest, MissingModel
from app.ports import RequestBody
from app.routes.answer_progress import AnswerProgress
from app.routes.error_response import no_such_path
from app.routes.incoming_request import IncomingRequest
from app.routes.loading_rules import LOADS_NOTHING
from app.routes.paths import OTHER_PATH
from app.routes.requested_model import RequestOptions, apply_rules, read_request
from app.routes.requirements import check_requirements, requirements_of
from app.use_cases.requirements import Requirements


class RequestReading(AnswerProgress):
    """Written by the request's own thread alone (exchange.py). Exchanges of other APIs override its methods."""

    def __init__(self, request: IncomingRequest, route: str) -> None:
        super().__init__()
        self.request = request
        self.services = request.services
        self.route = route
        self.engine_route = route  # of llama-server; "" for a request that it does not answer
        self.body: RequestBody | None = None
        self.options = RequestOptions("")
        self.releases: list[Callable[[], None]] = []  # what gives back what is held, the last one first

    def _read_request(self) -> None:
        """Read the body, and the options in it. A path without a route exists only for bodies that name a model."""
        if self.route == OTHER_PATH or self.request.method not in LOADS_NOTHING:
            self.body = self.request.receive_body()
            self.releases.append(self.body.close)
            self._translate(self.body)
        try:
            self.options = read_request(self.request, self.body, must_name=self.route == OTHER_PATH)
        except (InvalidRequest, MissingModel) as error:
            if self.route == OTHER_PATH:
                raise no_such_path(self.request, str(error)) from error
            raise

    def _translate(self, body: RequestBody) -> None:
        """For another API's body. OpenAI's goes to the engine as it is."""

    def _apply_rules(self, model: Model) -> None:
        self.options = apply_rules(self.request, self.body, self.options, model.rules)

    def _check_model(self, model: Model) -> None:
        self._apply_rules(model)
        check_requirements(self.engine_route, model, self.options)

    @property
    def _requirements(self) -> Requirements:
        return requirements_of(self.engine_route, self.options)
