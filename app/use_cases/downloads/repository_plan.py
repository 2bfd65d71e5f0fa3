"""The plan of a repository: for each of its models what it would need and where it would go, and which to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.entities.launch import ALL_LAYERS
from app.entities.placement import Outcome
from app.entities.repository import RepositoryName
from app.use_cases.downloads.choice import RepositoryModel
from app.use_cases.reporting.plans import Plan, planned_report

PLANNED_CTX_TOKENS = 32768  # of all slots together, or the model's training context if that is shorter
FITTING = (Outcome.PLACE, Outcome.EVICT, Outcome.WAIT)


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """What was decided about one model of a repository, as if it were here and requested."""

    model: RepositoryModel
    plan: Plan | None = None  # None: see `problem`
    problem: str = ""  # why it cannot be told, or cannot be served
    is_downloaded: bool = False  # all its files are in the Hugging Face cache

    @property
    def fits(self) -> bool:
        """Now, or once others have ended or are evicted."""
        return self.plan is not None and not self.problem and self.plan.decision.outcome in FITTING

    @property
    def is_on_gpus(self) -> bool:
        """All of it."""
        place = (self.plan.decision.placement or self.plan.decision.awaited_placement) if self.plan else None
        return place is not None and not place.is_on_cpu and not place.n_cpu_moe and place.n_gpu_layers >= ALL_LAYERS


@dataclass(frozen=True, slots=True)
class RepositoryPlan:
    """The plans of the models in a repository that a name may mean."""

    name: RepositoryName
    quants: tuple[QuantPlan, ...]


def recommended(quants: Sequence[QuantPlan]) -> QuantPlan | None:
    """The largest that fits, all of it on GPUs if one does; of equal ones the first. None if none fits."""
    fitting = [quant for quant in quants if quant.fits]
    return max(fitting, key=lambda quant: (quant.is_on_gpus, quant.model.size_bytes), default=None)


def repository_plan_report(plan: RepositoryPlan, shown: Callable[[str], str]) -> dict[str, object]:
    """Of POST /models/pull with `plan`, the largest first. `shown`: a model's name as the reader may see it."""
    best = recommended(plan.quants)
    by_size = sorted(plan.quants, key=lambda quant: -quant.model.size_bytes)
    return {"model": str(plan.name), "quants": [_row(quant, quant is best, shown) for quant in by_size]}


def _row(quant: QuantPlan, is_recommended: bool, shown: Callable[[str], str]) -> dict[str, object]:
    said = planned_report(quant.plan.model, quant.plan, shown) if quant.plan else _UNKNOWN
    fields = {key: said[key] for key in ("needed_bytes", "ctx_size", "outcome", "text", "evict")}
    return {
        "name": quant.model.name,
        "quant": quant.model.quantization,
        "size_bytes": quant.model.size_bytes,
        **fields,
        "fits": quant.fits,
        "recommended": is_recommended,
        "downloaded": quant.is_downloaded,
        "problem": quant.problem,
    }


_UNKNOWN: dict[str, object] = {"needed_bytes": None, "ctx_size": None, "outcome": None, "text": "", "evict": []}
