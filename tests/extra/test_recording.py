"""The recording of `top` in the documents, from a real service on fake GPUs. `make top-recording` keeps it."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.gpu_machine import Machine, a_card
from tests.helpers.recording import animated_svg
from tests.helpers.stand_in_nvml import needs_compiler
from tests.helpers.terminal import terminal

pytestmark = [needs_compiler, pytest.mark.integration]

COLUMNS, LINES, SECONDS_EACH = 100, 18, 0.8
MOST_BYTES = 150_000
MODELS = {"qwen3-0.6b": {"ctx_size": 32768}, "gemma-3-270m": {}, "smollm2-135m": {"ctx_size": 16384}, "lfm2-350m": {}}


def test_a_recording_of_top(tmp_path: Path):
    machine = Machine(tmp_path)
    machine.show(
        a_card("GPU-a", 2048, 600, name="NVIDIA T1000", utilization=63, bus="00000000:01:00.0"),
        a_card("GPU-b", 1600, 0, name="NVIDIA T400", utilization=38, bus="00000000:02:00.0"),
    )
    with (
        machine.serving(models=MODELS, SCHEDULING__MIN_RESIDENCY_SECONDS="2") as service,
        terminal(tmp_path, service.url, "top", columns=COLUMNS, lines=LINES) as top,
        ThreadPoolExecutor() as clients,
    ):
        service.chat("qwen3-0.6b")
        service.chat("gemma-3-270m")
        top.shows("qwen3-0.6b", "gemma-3-270m", "q quit")
        screens = [top.colored_screen]
        for model in ("qwen3-0.6b", "smollm2-135m", "lfm2-350m"):
            clients.submit(service.chat, model, max_tokens=4000, ignore_eos=True)
            for _ in range(4):
                time.sleep(SECONDS_EACH)
                screens.append(top.colored_screen)
    svg = animated_svg("llama-smart-proxy top", screens, COLUMNS, LINES, SECONDS_EACH)
    assert "smollm2-135m" in svg
    assert len(svg.encode()) < MOST_BYTES
    if folder := os.environ.get("RECORD_TO"):
        (Path(folder) / "top.svg").write_text(svg)
