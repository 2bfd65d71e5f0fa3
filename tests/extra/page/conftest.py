"""A browser, and a service with two fake GPUs and a few tiny models, shared by the tests of a module."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.gguf_bytes import F16, Info, a_header
from tests.helpers.gpu_machine import Machine, a_card
from tests.helpers.gpu_play import METADATA
from tests.helpers.service import Service
from tests.helpers.stand_in_nvml import needs_compiler

CHROMIUM = shutil.which("chromium")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
HAS_PLAYWRIGHT = importlib.util.find_spec("playwright") is not None
collect_ignore_glob = [] if HAS_PLAYWRIGHT else ["test_*.py"]  # `make test` has no browser

# What a model of 1 MB needs on a GPU is nearly all overhead: 0.5 GiB with 4,096 tokens, 0.9 GiB with 32,768.
MODELS: dict[str, dict[str, Any]] = {
    "qwen3-14b": {"ctx_size": 32768, "aliases": ["gpt-4o-mini"]},
    "gemma-3-4b": {"ctx_size": 16384},
    "phi-4": {"ctx_size": 32768},
    "mistral-small-24b": {},
}


def write_large_model(path: Path) -> None:
    """A sparse file of 20 GB: more than the GPUs have."""
    infos = [Info(f"blk.{layer}.ffn_up.weight", (8192, 8192), F16) for layer in range(160)]
    head = a_header(METADATA | {"llama.block_count": 160}, infos)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(head)
    os.truncate(path, len(head) + sum(info.size_bytes for info in infos))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def service(machine: Machine, other_program: int) -> Iterator[Service]:
    """Two GPUs, on one of which another program holds memory."""
    name = "NVIDIA GeForce GTX 1650"
    machine.show(
        a_card("GPU-a", 4096, name=name, bus="00000000:01:00.0", celsius=61, milliwatts=48200, utilization=63),
        a_card("GPU-b", 4096, name=name, bus="00000000:02:00.0", processes={other_program: 1434}, utilization=4),
    )
    write_large_model(machine.folder / "models" / "llama-3.3-70b.gguf")
    with machine.serving(models=MODELS) as running:
        yield running


@pytest.fixture(scope="module")
def other_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The pid of a program that uses a GPU, with a name that the page should show."""
    path = tmp_path_factory.mktemp("other") / "comfyui"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", path)
    process = subprocess.Popen([str(path), "600"])
    yield process.pid
    process.kill()
    process.wait(10)


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; fails if the browser's console had an error, or a script threw one."""
    with contextlib.ExitStack() as contexts:
        problems: list[str] = []

        def open_page(url: str, width: int = 1280, height: int = 900, allowed: str = "", **options: Any) -> Any:
            """`allowed`: part of an error that is expected."""
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            contexts.callback(context.close)
            page = context.new_page()

            def note(text: str) -> None:
                if not (allowed and allowed in text):
                    problems.append(text)

            page.on("console", lambda message: message.type == "error" and note(f"{message.text} {message.location}"))
            page.on("pageerror", lambda error: note(str(error)))
            page.goto(url)
            return page

        yield open_page
    assert problems == []


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


pytestmark = needs_compiler
