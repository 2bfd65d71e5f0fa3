"""EstimateCache: the estimates that one decision asks for repeatedly."""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import ALL_LAYERS, ModelOptions
from app.entities.memory import Estimate
from app.use_cases.placement.layer_split import layer_bytes
from app.use_cases.placement.request import PlacementRequest


class EstimateCache:
    """Each estimate of a request is computed once; shared by a decision and the decisions nested in it."""

    def __init__(self, request: PlacementRequest) -> None:
        self.request = request
        self._estimates: dict[tuple[ModelOptions, tuple[str, ...]], Estimate] = {}

    def estimate(self, options: ModelOptions, gpus: tuple[str, ...] = ()) -> Estimate:
        """The request's estimate with these options; `gpus` are product names in the order of the split."""
        key = options, gpus
        if key not in self._estimates:
            self._estimates[key] = self.request.estimate_with_margin(options, gpus)
        return self._estimates[key]

    def layer_bytes(self, options: ModelOptions) -> tuple[int, ...]:
        """Bytes of weights and context of each layer that goes to GPUs; the output is the last entry."""
        whole = options if options.n_gpu_layers == ALL_LAYERS else replace(options, n_gpu_layers=ALL_LAYERS)
        sizes = layer_bytes(self.request.shape, whole)
        return sizes[max(0, len(sizes) - options.n_gpu_layers) :]
