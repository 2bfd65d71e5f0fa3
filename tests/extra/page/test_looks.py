"""How the page looks and is operated: by keyboard, without scripts, and the screenshots of the documentation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.extra.page.actions import SECONDS, ask, button, load, never_ending, unload, wait_for_end, wait_for_state
from tests.extra.page.looks import serious_findings
from tests.helpers.gpu_machine import Machine
from tests.helpers.service import Service
from tests.helpers.stand_in_nvml import needs_compiler

pytestmark = needs_compiler
FOLDER = os.environ.get("SCREENSHOTS")  # set by `make screenshots`
MAX_BYTES = 200_000


def test_without_scripts_the_page_says_what_is_there(service: Service, open_page: Callable[..., Any]):
    page = open_page(service.url, java_script_enabled=False)
    text = page.locator("body").inner_text()
    for expected in (
        "NVIDIA GeForce GTX 1650",
        "qwen3-14b",
        f"{service.url}/v1",
        "from openai import OpenAI",
        "comfyui",
    ):
        assert expected in text, expected
    assert page.locator(".scripted:visible").count() == 0
    assert page.locator("button:visible").count() == 0


def test_everything_can_be_done_by_keyboard(service: Service, machine: Machine, open_page: Callable[..., Any]):
    page = open_page(service.url)
    button(page, "Load", "phi-4").wait_for(timeout=SECONDS)
    tab_to(page, "Load phi-4")
    page.keyboard.press("Enter")
    wait_for_state(page, "phi-4", "ready")
    tab_to(page, "curl")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Python").get_attribute("aria-selected") == "true"
    never_ending(page)
    tab_to(page, "Message")
    page.keyboard.type("Hello!")
    page.keyboard.press("Enter")
    tab_to(page, "Stop")
    page.keyboard.press("Enter")
    wait_for_end(page)
    tab_to(page, "Unload phi-4")
    page.keyboard.press("Space")
    wait_for_state(page, "phi-4", "unloaded")


def tab_to(page: Any, name: str) -> None:
    """Press Tab until what has this name has the focus, and see that everything on the way can be seen to have it."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED_NAME) == name:
            return
    raise AssertionError(f"Tab never reaches {name}")


FOCUSED_NAME = """() => {
  const element = document.activeElement;
  return element.getAttribute("aria-label") ?? element.labels?.[0]?.innerText ?? element.innerText;
}"""


@pytest.mark.skipif(FOLDER is None, reason="make screenshots takes them")
def test_screenshots(service: Service, machine: Machine, open_page: Callable[..., Any]):
    folder = Path(FOLDER or "")
    folder.mkdir(parents=True, exist_ok=True)
    page = open_page(service.url, height=1000)
    for model in ("qwen3-14b", "gemma-3-4b", "mistral-small-24b"):
        load(page, machine, model)
        ask(page, "Write a haiku about memory.", model)
        wait_for_end(page)
    machine.holds_back_at = 0.5
    button(page, "Load", "phi-4").click()
    wait_for_state(page, "phi-4", "loading")
    for name, width, height, scheme in (
        ("status-light", 1280, 1000, "light"),
        ("status-dark", 1280, 1000, "dark"),
        ("status-phone", 390, 844, "light"),
    ):
        shown = open_page(service.url, width, height, color_scheme=scheme)
        wait_for_state(shown, "phi-4", "loading")
        path = folder / f"{name}.png"
        shown.screenshot(path=path)
        assert path.stat().st_size < MAX_BYTES, name
        assert serious_findings(shown) == []
    machine.holds_back_at = None
    for model in ("qwen3-14b", "gemma-3-4b", "mistral-small-24b", "phi-4"):
        wait_for_state(page, model, "ready")
        unload(page, model)
