"""LimitedRegistry: the metrics that a key which is limited to some models may see."""

from __future__ import annotations

from collections.abc import Iterator, Set

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

# Without a label `model`, only these and the key's own: others add up the requests of all models.
OF_THE_MACHINE = (
    "process_",
    "python_",
    "llama_smart_proxy_gpu_",
    "llama_smart_proxy_nvml_",
    "llama_smart_proxy_build_",
)


class LimitedRegistry(CollectorRegistry):
    """Another registry's metrics of these models and of the machine; of keys, only those of this one."""

    def __init__(self, whole: CollectorRegistry, models: Set[str], key: str) -> None:
        """`key`: its name."""
        super().__init__()
        self._whole = whole
        self._models = models
        self._key = key

    def collect(self) -> Iterator[Metric]:
        for family in self._whole.collect():
            shown = Metric(family.name, family.documentation, family.type, family.unit)
            shown.samples = [sample for sample in family.samples if self._shows(sample)]
            if shown.samples:
                yield shown

    def _shows(self, sample: Sample) -> bool:
        model, key = map(sample.labels.get, ("model", "key"))
        if key not in (None, self._key):
            return False
        return sample.name.startswith(OF_THE_MACHINE) or key is not None if model is None else model in self._models
