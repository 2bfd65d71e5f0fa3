"""The screenshots of the documentation, from a service that has something to do."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.extra.page.actions import SECONDS, button, load, wait_for_state
from tests.extra.page.conftest import write_large_model
from tests.extra.page.looks import serious_findings
from tests.helpers.gpu_machine import Machine, a_card
from tests.helpers.service import Service
from tests.helpers.stand_in_nvml import needs_compiler
from workers.catalog.demo_model import write_demo_model

FOLDER = os.environ.get("SCREENSHOTS")  # set by `make screenshots`
pytestmark = [
    needs_compiler,
    pytest.mark.skipif(FOLDER is None, reason="make screenshots takes them"),
]
MAX_BYTES = 150_000
BUSY_SECONDS = 10  # with a point of the charts each 5 s
# MB of the real files: the demo model's, filled up with nothing.
FILES = {
    "Qwen3-0.6B-Q8_0": 639,
    "gemma-3-1b-it-Q4_K_M": 806,
    "SmolLM2-360M-Instruct-Q8_0": 386,
    "Llama-3.2-1B-Instruct-Q4_K_M": 808,
}
NAME = "NVIDIA GeForce GTX 1650"


@pytest.fixture(scope="module")
def busy(machine: Machine, other_program: int) -> Iterator[Service]:
    """Two GPUs, on one of which another program holds memory, and models of realistic sizes."""
    folder = machine.folder / "models"
    folder.mkdir()
    for name, megabytes in FILES.items():
        demo = write_demo_model(machine.folder)
        os.truncate(shutil.move(demo, folder / f"{name}.gguf"), megabytes * 10**6)
    write_large_model(folder / "Qwen3-32B-Q4_K_M.gguf")
    show_cards(machine, other_program, 0.6)
    with machine.serving(models={}, DEFAULTS__CTX_SIZE="32768") as running:
        yield running


def show_cards(machine: Machine, other_program: int, load: float) -> None:
    """`load`: 0 to 1."""
    machine.show(
        a_card(
            "GPU-a",
            4096,
            name=NAME,
            celsius=int(48 + 20 * load),
            milliwatts=int(15_000 + 55_000 * load),
            utilization=int(100 * load),
        ),
        a_card(
            "GPU-b",
            4096,
            name=NAME,
            bus="00000000:02:00.0",
            processes={other_program: 1434},
            celsius=int(44 + 8 * load),
            milliwatts=int(12_000 + 20_000 * load),
            utilization=int(35 * load),
        ),
    )


def test_screenshots(busy: Service, machine: Machine, other_program: int, open_page: Callable[..., Any]):
    page = open_page(busy.url, height=1000)
    names = page.locator("[data-actions]").evaluate_all("cells => cells.map((cell) => cell.dataset.model)")
    *loaded, last = [name for name in names if "32B" not in name]
    for name in loaded:
        load(page, machine, name)
    answer_for_a_while(busy, machine, other_program, loaded)
    machine.holds_back_at = 0.6
    button(page, "Load", last).click()
    with answering(busy, loaded[:2]), ThreadPoolExecutor(1) as waiting:
        answer = waiting.submit(busy.chat, last, max_tokens=8)
        try:
            take(busy, last, open_page)
        finally:
            machine.holds_back_at = None
    assert answer.result().status_code == 200


@contextlib.contextmanager
def answering(service: Service, models: list[str]) -> Iterator[None]:
    """One request after another for each."""
    ended = threading.Event()

    def ask(model: str) -> None:
        while not ended.is_set():
            service.chat(model, max_tokens=2000, ignore_eos=True)

    with ThreadPoolExecutor(len(models)) as threads:
        for model in models:
            threads.submit(ask, model)
        try:
            yield
        finally:
            ended.set()


def answer_for_a_while(service: Service, machine: Machine, other_program: int, models: list[str]) -> None:
    """Short answers, and utilization that goes up and down."""
    chance, end = random.Random(1), time.monotonic() + BUSY_SECONDS
    while time.monotonic() < end:
        show_cards(machine, other_program, chance.uniform(0.2, 0.95))
        service.chat(chance.choice(models), max_tokens=chance.randint(40, 400), ignore_eos=True)
        time.sleep(chance.uniform(0.5, 3))


def take(service: Service, loading: str, open_page: Callable[..., Any]) -> None:
    folder = Path(FOLDER or "")
    folder.mkdir(parents=True, exist_ok=True)
    for name, width, height, scheme in (
        ("status-light", 1280, 1180, "light"),
        ("status-dark", 1280, 1180, "dark"),
        ("status-phone", 390, 844, "light"),
    ):
        shown = open_page(service.url, width, height, color_scheme=scheme)
        wait_for_state(shown, loading, "loading")
        shown.locator("#queue li").first.wait_for(timeout=SECONDS)
        shown.locator("#model-rows [data-field=speed]:not(:empty)").first.wait_for(timeout=SECONDS)
        path = folder / f"{name}.png"
        shown.screenshot(path=path)
        reduce_colors(path)
        assert path.stat().st_size < MAX_BYTES, name
        assert serious_findings(shown) == []


def reduce_colors(path: Path) -> None:
    """A third of the size, without a visible difference."""
    from PIL import Image

    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    reduced.save(path, optimize=True)
