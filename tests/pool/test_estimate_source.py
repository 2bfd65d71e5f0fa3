"""Where the memory needs of a model come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.memory import Confidence
from app.use_cases.estimate.companions import NO_COMPANIONS
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import model_shape
from bench.estimate import shape_of
from bench.vram_truth import rows
from tests.helpers.builders import a_model, an_engine
from workers.catalog.model_headers import ModelHeaders
from workers.measurement.history import History
from workers.pool.estimate_source import EstimateSource


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
