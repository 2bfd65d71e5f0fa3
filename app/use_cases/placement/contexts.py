"""Contexts: which context sizes a model may be loaded with."""

from __future__ import annotations

from app.use_cases.placement.request import PlacementRequest

AUTO_CONTEXTS = (32768, 16384, 8192, 4096)  # what ctx_size "auto" chooses from


def candidate_contexts(request: PlacementRequest) -> tuple[int, ...]:
    """Context sizes to try, longest first: those of ctx_size "auto" up to the model's own, or the one configured."""
    trained = request.shape.hparams.integer("context_length")
    if not request.constraints.has_auto_context:
        return (request.options.ctx_size or trained,)
    return tuple(size for size in AUTO_CONTEXTS if size <= trained) or (trained or AUTO_CONTEXTS[-1],)


def max_request_tokens(request: PlacementRequest) -> int:
    """The most context tokens one request can get, wherever the model is loaded; 0 if unknown."""
    options = request.options
    return candidate_contexts(request)[0] // (1 if options.kv_unified else max(1, options.parallel))
