"""The bodies of GET and POST /plan: what each model would need now, where it fits, and who would be evicted for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from app.entities.model import Model
from app.entities.placement import CPU, Card, Decision, Outcome, no_suggestion
from app.entities.server import Server
from app.use_cases.placement.cards import allowed_cards
from app.use_cases.placement.world import World
from app.use_cases.reporting.model_list import capability_names
from app.use_cases.reporting.phrases import place_text
from app.use_cases.reporting.plan_text import NOTHING, MachineShare, plan_text
from app.use_cases.scheduling.pin_orders import is_pinned
from app.use_cases.scheduling.pool_state import DRAINING, READY, STARTING, PoolState

STATES = {STARTING: "loading", READY: "ready", DRAINING: "draining"}
_VERBS = {STARTING: "loading on", READY: "ready on", DRAINING: "finishing on"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided about one model, as if it had been requested."""

    model: Model
    decision: Decision
    evict: tuple[str, ...] = ()  # model names of the servers that would be evicted
    awaited: tuple[str, ...] = ()  # of those that it would wait for
    share: MachineShare = NOTHING


def plan_of(model: Model, decision: Decision, world: World) -> Plan:
    """Keeps no model's tensors: thousands of plans are remembered."""
    names = {resident.id: resident.model for resident in world.residents}
    evict, awaited = ([names[each] for each in ids if each in names] for ids in (decision.evict, decision.awaited))
    kept = replace(decision, suggest=no_suggestion, considered=())
    unique = tuple(dict.fromkeys(evict)), tuple(dict.fromkeys(awaited))
    return Plan(model, kept, *unique, _share(model, world))


def _share(model: Model, world: World) -> MachineShare:
    """What the model may use of this machine, and who else holds it."""
    cards = allowed_cards(world.cards, model.constraints)
    others = world.with_others_taken().taken
    return MachineShare(
        gpu_bytes=tuple(card.total_bytes for card in cards),
        ram_bytes=world.totals.get(CPU, 0),
        held_by_others={card.index: others[card.uuid] for card in cards if others.get(card.uuid)},
        pinned=tuple(dict.fromkeys(each.model for each in world.residents if each.is_pinned)),
        is_gpu_missing=bool(world.absent),
    )


def plan_list(
    models: Iterable[Model], plans: Mapping[str, Plan], pool: PoolState, shown: Callable[[str], str]
) -> dict[str, object]:
    """The body of GET /plan. A model that is neither loaded nor in `plans` has the outcome null.

    `shown`: a model's name as the reader may see it.
    """
    servers: dict[str, list[Server]] = {}
    for server in pool.servers:
        servers.setdefault(server.model.name, []).append(server)
    return {"models": [_entry(model, servers.get(model.name, []), plans, pool, shown) for model in models]}


def _entry(
    model: Model, servers: list[Server], plans: Mapping[str, Plan], pool: PoolState, shown: Callable[[str], str]
) -> dict[str, object]:
    best = min((each for each in servers if each.state in STATES), key=_rank, default=None)
    about = _loaded(best, servers) if best else planned_report(model, plans.get(model.name), shown)
    failure = pool.failures.get(model.name)
    problem = model.problem or (failure.detail if failure and best is None else "")
    unloaded = "failed" if problem else "unloaded"
    return {
        "id": model.name,
        "aliases": list(model.aliases),
        "source": model.source.value,
        "quant": model.facts.quantization if model.facts else "",
        "size_bytes": model.size_bytes,
        "ctx_size": about.pop("ctx_size", 0) or _configured_context(model),
        "capabilities": capability_names(model.capabilities),
        "state": STATES[best.state] if best else unloaded,
        "problem": problem,
        "pinned": is_pinned(pool.pin_orders, model),
        **about,
    }


def _rank(server: Server) -> int:
    return (READY, STARTING, DRAINING).index(server.state)


def _configured_context(model: Model) -> int | None:
    """Of all slots together; None if it is chosen when the model is loaded, or not known yet."""
    if model.constraints.has_auto_context:
        return None
    return model.launch.options.ctx_size or (model.facts.context_tokens if model.facts else None)


def _loaded(best: Server, servers: list[Server]) -> dict[str, object]:
    places = dict.fromkeys(place_text(each.placement) for each in servers if each.state is best.state)
    progress = f", {100 * best.load_progress:.0f} %" if best.load_progress and best.state is STARTING else ""
    return {
        "ctx_size": best.placement.ctx_size,
        "outcome": "loaded",
        "text": f"{_VERBS[best.state]} {', '.join(places)}{progress}",
        "needed_bytes": sum(best.booked.get(uuid, 0) for uuid in best.placement.uuids),
        "evict": [],
        "device": best.placement.device,
    }


def planned_report(model: Model, plan: Plan | None, shown: Callable[[str], str]) -> dict[str, object]:
    """What is said of a model that is not loaded; null for what is not known."""
    if model.problem:
        text = f"cannot be served: {model.problem}"
        return {"outcome": Outcome.REFUSE, "text": text, "needed_bytes": None, "evict": [], "device": None}
    if plan is None:
        return {"outcome": None, "text": "", "needed_bytes": None, "evict": [], "device": None}
    decision = plan.decision
    place = decision.placement or decision.awaited_placement
    return {
        "ctx_size": place.ctx_size if place else 0,
        "outcome": decision.outcome,
        "text": plan_text(decision, plan.share, [*map(shown, plan.evict)], [*map(shown, plan.awaited)], shown),
        "needed_bytes": decision.needed_bytes or None,
        "evict": [shown(name) for name in plan.evict],
        "device": decision.placement.device if decision.placement else None,
    }


# --- what `plan` prints ------------------------------------------------------------------------------------------


def machine_json(world: World) -> dict[str, object]:
    """The GPUs and the RAM that a decision saw."""
    return {"gpus": [_gpu_json(card) for card in world.cards], "ram": _ram_json(world)}


def _gpu_json(card: Card) -> dict[str, object]:
    sizes = {"usable_bytes": card.usable_bytes, "reserve_bytes": card.reserve_bytes}
    return {"uuid": card.uuid, **sizes, "unified": card.is_unified}


def _ram_json(world: World) -> dict[str, int | None]:
    """null: not limited."""
    return {"total_bytes": world.totals.get(CPU), "free_bytes": world.shared.get(CPU)}
