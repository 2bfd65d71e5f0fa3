"""Plans a repository: the headers of its models are read, and the machine says where each would go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial

from app.entities.repository import RepositoryName
from app.errors import DownloadFailed, InvalidModelFile, ProxyError
from app.use_cases.downloads.choice import RepositoryModel, models_of
from app.use_cases.downloads.repository_plan import QuantPlan, RepositoryPlan
from workers.downloads.calls import begin_calls
from workers.downloads.found_model import FoundModel
from workers.downloads.header_check import read_remote_model
from workers.downloads.hub import Hub
from workers.downloads.remote_model import Machine
from workers.downloads.search import search_model

READERS = 4  # headers that are read at the same time
PLAN_SECONDS = 60.0  # to find the models, and again to read their headers: a server may send byte by byte
MAX_MODELS = 64


def plan_repository(
    hub: Hub, name: RepositoryName, machine: Machine, is_downloaded: Callable[[FoundModel], bool]
) -> RepositoryPlan:
    """The plans of all models of a repository, or of the one that the name chooses. `is_downloaded`: whether its
    files are in the cache. Raises ModelNotFound, DownloadFailed and Overloaded."""
    chosen = _search(hub, name)
    repository = chosen.repository
    models = (chosen.model,) if name.choice else models_of(repository)

    def plan(model: RepositoryModel) -> QuantPlan:
        found = FoundModel(repository, model)
        try:
            decided = machine.plan(read_remote_model(hub, found))
        except InvalidModelFile as error:
            return QuantPlan(model, problem=error.problem, is_downloaded=is_downloaded(found))
        return QuantPlan(model, decided, is_downloaded=is_downloaded(found))

    return RepositoryPlan(RepositoryName(repository.repo, name.choice), _plan_each(models, plan))


def _search(hub: Hub, name: RepositoryName) -> FoundModel:
    (found,) = begin_calls([partial(search_model, hub, name)], 1)
    try:
        return found.result(PLAN_SECONDS)
    except TimeoutError:
        raise DownloadFailed(
            f"{name.repo} cannot be planned: {hub.shown_endpoint} did not describe it within {PLAN_SECONDS:.0f} s"
        ) from None


def _plan_each(
    models: Sequence[RepositoryModel], plan: Callable[[RepositoryModel], QuantPlan]
) -> tuple[QuantPlan, ...]:
    """Raises the ProxyError of one if all have one: it is that of the repository."""
    complete = [model for model in models if not model.problem][:MAX_MODELS]
    begun = begin_calls([partial(plan, model) for model in complete], READERS)
    done, late = wait(begun, timeout=PLAN_SECONDS)
    for future in late:
        future.cancel()
    futures = {model.path: future for model, future in zip(complete, begun, strict=True)}
    errors = [error for future in done if (error := future.exception())]
    if errors and len(errors) == len(futures):
        raise errors[0]
    return tuple(_result(model, futures.get(model.path)) for model in models)


def _result(model: RepositoryModel, future: Future[QuantPlan] | None) -> QuantPlan:
    if future is None:
        return QuantPlan(model, problem=model.problem or f"not planned: only {MAX_MODELS} models are; ask for it alone")
    if not future.done() or future.cancelled():
        return QuantPlan(model, problem=f"its header could not be read within {PLAN_SECONDS:.0f} s")
    try:
        return future.result()
    except ProxyError as error:
        return QuantPlan(model, problem=str(error))
