"""How the page is operated: by keyboard, and without scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.extra.page.actions import SECONDS, button, never_ending, wait_for_end, wait_for_state
from tests.helpers.gpu_machine import Machine
from tests.helpers.service import Service
from tests.helpers.stand_in_nvml import needs_compiler

pytestmark = needs_compiler


def test_without_scripts_the_page_says_what_is_there(service: Service, open_page: Callable[..., Any]):
    page = open_page(service.url, java_script_enabled=False)
    text = page.locator("body").inner_text()
    for expected in (
        "NVIDIA GeForce GTX 1650",
        "qwen3-14b",
        f"{service.url}/v1",
        "comfyui",
    ):
        assert expected in text, expected
    page.locator("#connect summary").click()
    assert "from openai import OpenAI" in page.locator("#connect").inner_text()
    assert page.locator(".scripted:visible").count() == 0
    assert page.locator("button:visible").count() == 0


# Copies of the first GPU until there are eight; the ends of the last one, and whether the page scrolls sideways.
EIGHT_GPUS = """() => {
  const list = document.getElementById("gpus");
  while (list.children.length < 8) list.append(list.firstElementChild.cloneNode(true));
  const end = list.lastElementChild.getBoundingClientRect().bottom + scrollY;
  return [end, document.documentElement.scrollWidth > innerWidth];
}"""


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (1920, 1080), (2560, 1440)])
def test_eight_gpus_are_on_the_first_screen(service: Service, open_page: Callable[..., Any], width: int, height: int):
    end, is_too_wide = open_page(service.url, width, height).evaluate(EIGHT_GPUS)
    assert end < height and not is_too_wide


@pytest.mark.parametrize("width", [360, 768, 1024])
def test_eight_gpus_fit_narrow_screens(service: Service, open_page: Callable[..., Any], width: int):
    _, is_too_wide = open_page(service.url, width).evaluate(EIGHT_GPUS)
    assert not is_too_wide


def test_everything_can_be_done_by_keyboard(service: Service, machine: Machine, open_page: Callable[..., Any]):
    page = open_page(service.url)
    button(page, "Load", "phi-4").wait_for(timeout=SECONDS)
    tab_to(page, "Load phi-4")
    page.keyboard.press("Enter")
    wait_for_state(page, "phi-4", "ready")
    tab_to(page, "For curl, Python, Claude Code and Open WebUI")
    page.keyboard.press("Enter")
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
