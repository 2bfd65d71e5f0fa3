"""The engines that models have of their own, in reports, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from app.entities.gpu import GpuSnapshot
from app.entities.launch import EngineState, OwnEngine
from app.entities.model import Model


def own_engine_name(model: Model, shows_paths: bool) -> str | None:
    """None: it has none, or the reader may not see its path."""
    return model.launch.engine.shown(shows_paths) if model.launch.engine else None


def own_engine_json(engine: OwnEngine, state: EngineState) -> dict[str, object]:
    facts = state.facts
    return {
        "engine": str(engine),
        "kind": facts.kind if facts else None,
        "version": facts.version if facts else None,
        "problem": state.problem,
        "models": list(state.use.models),
    }


def own_engine_problems(engines: Mapping[OwnEngine, EngineState], gpus: GpuSnapshot) -> Iterator[str]:
    """What is wrong with them, by the names of their settings. That one can use no GPU is wrong only for a model that
    may use some; that it can use only some is why there are several."""
    for engine, state in engines.items():
        if state.problem:
            yield from (f"models.{name}.engine: {state.problem}" for name in state.use.models)
        elif problem := _no_gpu(gpus, engine):
            yield from (f"models.{name}.engine: {problem}" for name in state.use.gpu_models)


def _no_gpu(gpus: GpuSnapshot, engine: OwnEngine) -> str:
    """Why it can use none of the GPUs that there are."""
    view = gpus.views.get(engine)
    if view is None or not gpus.gpus:
        return ""
    is_none_usable = all(gpu.uuid in view.unusable for gpu in gpus.gpus)
    return view.problem or ("; ".join(dict.fromkeys(view.unusable.values())) if is_none_usable else "")


def gpus_it_cannot_use(engines: Mapping[OwnEngine, EngineState], gpus: GpuSnapshot) -> Iterator[str]:
    """A line for each model and GPU, for the log."""
    for engine, state in engines.items():
        if view := gpus.views.get(engine):
            unusable = [(gpu.index, why) for gpu in gpus.gpus if (why := view.unusable.get(gpu.uuid))]
            yield from (f"models.{name}.engine: GPU {n}: {why}" for name in state.use.gpu_models for n, why in unusable)
