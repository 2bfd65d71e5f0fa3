"""Where the memory needs of a model come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.memory import Confidence
from app.entities.model import Model
from app.entities.placement import PlacementConstraints
from app.use_cases.estimate.companions import NO_COMPANIONS
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.draft_head import EAGLE3
from app.use_cases.model_shape.shape import model_shape
from app.use_cases.placement.request import PlacementRequest
from bench.estimate import shape_of
from bench.gpu.model_file import write_sparse_model
from bench.gpu.shapes import Shape
from bench.vram_truth import rows
from tests.helpers.builders import a_model, an_engine
from workers.catalog.model_headers import ModelHeaders
from workers.measurement.history import History
from workers.pool.estimate_source import EstimateSource

HEAD = "eagle3-llama-3.1-8b"


@pytest.mark.parametrize(
    ("version", "confidence"), [("11549 (a1)", Confidence.EXACT), ("11600 (a1)", Confidence.MODELLED)]
)
def test_an_engine_of_another_version_starts_as_modelled(tmp_path: Path, version: str, confidence: Confidence):
    candidates = ((shape_of(row.shape, row.quant), row.options) for row in rows())
    shape, options = next(
        each for each in candidates if estimate_memory(*each).confidence is Confidence.EXACT and each[1].devices
    )
    engine = replace(an_engine(), version=version)
    history, headers = History(tmp_path / "history"), ModelHeaders(model_shape)
    needs = EstimateSource(history, lambda own: engine, headers, lambda: GpuSnapshot(GpuState.OK, 0.0))
    request = needs.request_by_headers(a_model(), shape, NO_COMPANIONS)
    assert request.estimate(options, ("GPU-a",)).confidence is confidence


def test_a_head_beside_the_model_counts_only_with_its_type(tmp_path: Path):
    for name in ("llama-3.1-8b", HEAD):
        write_sparse_model(Shape(name, "Q4_K_M"), tmp_path / f"{name}.gguf")
    model = replace(a_model(), path=str(tmp_path / "llama-3.1-8b.gguf"), draft_heads=(str(tmp_path / f"{HEAD}.gguf"),))
    model = replace(model, constraints=PlacementConstraints(has_auto_speculation=True))

    def requested(model: Model, *flags: str) -> PlacementRequest:
        engine = replace(an_engine(), flags=an_engine().flags | {*flags})
        history, headers = History(tmp_path / "h"), ModelHeaders(model_shape)
        needs = EstimateSource(history, lambda own: engine, headers, lambda: GpuSnapshot(GpuState.OK, 0.0))
        return needs.placement_request(model)

    known = f"--spec-type {EAGLE3}"
    assert requested(model).draft_head is None, "the engine does not know the type"
    off = replace(model, constraints=PlacementConstraints())
    assert requested(off, known).draft_head is None, "speculative is not auto"
    request = requested(model, known)
    assert request.draft_head is not None and request.optional_speculation == EAGLE3
    plain, drafting = (
        request.estimate(replace(request.options, devices=1, speculation=each), ("GPU-a",)).devices[0]
        for each in ("none", EAGLE3)
    )
    assert drafting.weights_bytes - plain.weights_bytes == pytest.approx(274.5 * 1024**2, rel=0.01)
