"""What tests do on the page, in the words of its user."""

from __future__ import annotations

import json
from typing import Any

from tests.helpers.gpu_machine import Machine

SECONDS = 20_000  # milliseconds; twenty times what a load or an answer takes


def button(page: Any, action: str, model: str) -> Any:
    return page.get_by_role("button", name=f"{action} {model}", exact=True)


def wait_for_state(page: Any, model: str, state: str) -> None:
    page.wait_for_selector(f'[data-actions][data-model="{model}"][data-state="{state}"]', timeout=SECONDS)


def load(page: Any, machine: Machine, model: str) -> None:
    """Load it by its button, and see it loading before it is ready."""
    machine.holds_back_at = 0.5
    try:
        button(page, "Load", model).click()
        wait_for_state(page, model, "loading")
    finally:
        machine.holds_back_at = None
    wait_for_state(page, model, "ready")


def unload(page: Any, model: str) -> None:
    button(page, "Unload", model).click()
    wait_for_state(page, model, "unloaded")


def ask(page: Any, text: str, model: str = "") -> Any:
    """Send a message by Enter; returns the entry of its answer."""
    entries = page.locator("#play-log .answer")
    before = entries.count()
    if model:
        page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("textbox", name="Message").press("Enter")
    return entries.nth(before)


def never_ending(page: Any) -> None:
    """The model's answers on this page end only by Stop: the demo model says a sentence in a few milliseconds."""

    def lengthen(route: Any) -> None:
        body = json.loads(route.request.post_data) | {"max_tokens": 30_000, "ignore_eos": True}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", lengthen)


def wait_for_end(page: Any) -> str:
    """Wait until nothing is being answered; returns the status line."""
    page.wait_for_selector("#play-stop:disabled", timeout=SECONDS)
    return str(page.locator("#play-status").inner_text())
