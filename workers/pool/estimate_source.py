"""EstimateSource: what a model needs, before it is loaded: what a start like it needed before, else an estimate.

The only place that chooses where these numbers come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from app.entities.gpu import GpuSnapshot
from app.entities.launch import DRAFTS_ITSELF, EngineFacts, ModelOptions, OwnEngine
from app.entities.memory import Estimate
from app.entities.model import Model
from app.errors import InvalidModelFile
from app.use_cases.estimate.companions import Companions, has_measured_mtp
from app.use_cases.estimate.estimate import estimate_memory, for_version, for_vulkan
from app.use_cases.estimate.load_staging import with_load_staging
from app.use_cases.estimate.tensor_overrides import unmatched_patterns
from app.use_cases.launch.capabilities import launch_as_started
from app.use_cases.launch.command_line import (
    PROMPT_CACHE_OPTION,
    launch_with_options,
    with_draft_head,
    without_prompt_cache,
)
from app.use_cases.model_shape.header_facts import header_facts
from app.use_cases.model_shape.shape import ModelShape
from app.use_cases.placement.request import DraftHead, FoundContexts, PlacementRequest
from workers.catalog.companion_files import CompanionFiles
from workers.catalog.model_headers import ModelHeaders
from workers.measurement.history import History
from workers.measurement.model_history import NO_HISTORY, start_of

_TYPE = "--spec-type "  # and a type, among the flags of an engine
_Setting = tuple[str, OwnEngine | None, bool]


class EstimateSource:
    """Makes placement requests, on the thread of the request that may have to load a model."""

    def __init__(
        self,
        history: History,
        engine: Callable[[OwnEngine | None], EngineFacts | None],
        shapes: ModelHeaders[ModelShape],
        gpus: Callable[[], GpuSnapshot],
    ) -> None:
        """`engine` returns a model's engine as it is now, None without one that works; it may take seconds. `gpus`: the
        last snapshot."""
        self._gpus = gpus
        self._history = history
        self._engine = engine
        self._shapes = shapes
        self._companions = CompanionFiles()
        # By path, engine and whether Vulkan is used, with what they were found for; any thread may replace an entry, at
        # worst one is found twice.
        self._contexts: dict[_Setting, tuple[ModelShape, Companions, FoundContexts]] = {}

    def placement_request(self, model: Model) -> PlacementRequest:
        """What placing the model depends on. The result reads no file later, and its estimates never change.

        Raises the ProxyError of a model that cannot be served."""
        model = self.as_started(model)
        return self.request_by_headers(model, self._shapes.get(model.path), self._companions.read(model.launch))

    def request_by_headers(self, model: Model, shape: ModelShape, companions: Companions) -> PlacementRequest:
        """The same for a model with the settings that it is started with, whose headers were read already: its files
        may be elsewhere."""
        own = model.launch.engine
        engine = self._engine(own)
        if engine is not None and PROMPT_CACHE_OPTION not in engine.flags:
            model = replace(model, launch=without_prompt_cache(model.launch))
        uses_vulkan = self._gpus().seen_by(own).uses_vulkan
        head = self._draft_head(model, shape, companions, engine)
        learned = self._history.of_model(model.path, engine.identity if engine else "")

        def estimate(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
            if engine is not None and learned.rows:
                path = head.path if head and drafts(head, options) else ""
                launch = with_draft_head(launch_with_options(model.launch, options), path)
                start = start_of(replace(model, launch=launch), engine, gpus)
                if known := learned.estimate(start):
                    return with_load_staging(known, shape, options)
            return learned.with_overheads(unmeasured(options), gpus)

        def drafts(head: DraftHead, options: ModelOptions) -> bool:
            return options.speculation == head.speculation

        def unmeasured(options: ModelOptions) -> Estimate:
            own = replace(companions, draft=head.shape) if head and drafts(head, options) else companions
            found = estimate_memory(shape, options, 0, own)
            found = for_version(found, engine.version) if engine else found
            return for_vulkan(found) if uses_vulkan else found

        def without_history(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
            return NO_HISTORY.with_overheads(unmeasured(options), gpus)

        return PlacementRequest(
            *(shape, model.launch.options, estimate, model.constraints),
            estimate_without_history=without_history,
            engine=own,
            engine_drafts=engine is not None and f"{_TYPE}{DRAFTS_ITSELF}" in engine.flags,
            draft_head=head,
            found_contexts=self._found_contexts((model.path, own, uses_vulkan), shape, companions),
        )

    def _draft_head(
        self, model: Model, shape: ModelShape, companions: Companions, engine: EngineFacts | None
    ) -> DraftHead | None:
        """The file beside the model that may draft for it; none if the model does that itself."""
        if engine is None or companions.draft or not model.constraints.has_auto_speculation or has_measured_mtp(shape):
            return None
        offered = {flag.removeprefix(_TYPE) for flag in engine.flags if flag.startswith(_TYPE)}
        return self._companions.head(model.draft_heads, shape, offered.__contains__)

    def _found_contexts(self, key: _Setting, shape: ModelShape, companions: Companions) -> FoundContexts:
        """Those found before for these files, unless they have changed."""
        known = self._contexts.get(key)
        if known is None or known[0] is not shape or known[1] != companions:
            known = self._contexts[key] = shape, companions, {}
        return known[2]

    def remarks(self, model: Model) -> tuple[str, ...]:
        """What in its settings has no effect on this model."""
        if not model.launch.options.overrides:
            return ()
        try:
            return unmatched_patterns(self._shapes.get(model.path), model.launch.options)
        except InvalidModelFile:  # the engine will report it
            return ()

    def as_started(self, model: Model) -> Model:
        """The model with the settings it is really started with."""
        try:
            facts = model.facts or header_facts(self._shapes.get(model.path).hparams.header)
        except InvalidModelFile:  # the engine will report it
            return model
        return replace(model, launch=launch_as_started(model.launch, facts))
