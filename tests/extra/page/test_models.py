"""Loading, watching, chatting, reading logs and unloading, all on the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.extra.page.actions import SECONDS, ask, button, load, never_ending, unload, wait_for_end, wait_for_state
from tests.extra.page.looks import serious_findings
from tests.helpers.gpu_machine import Machine
from tests.helpers.service import Service, wait_for
from tests.helpers.stand_in_nvml import needs_compiler

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def nothing_stays_loaded(service: Service) -> Iterator[None]:
    """A test that fails does not make the next ones fail."""
    yield
    for server in service.get("/status").json()["servers"]:
        service.post("/models/unload", {"model": server["model"], "force": True})
    wait_for(lambda: not service.servers(), 20)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_model_is_loaded_chatted_with_and_unloaded_on_the_page(
    service: Service, machine: Machine, open_page: Callable[..., Any], width: int, scheme: str
):
    page = open_page(service.url, width, color_scheme=scheme)
    load(page, machine, "phi-4")
    assert serious_findings(page) == []

    ask(page, "Hello!", "phi-4")
    assert "tokens/s" in wait_for_end(page)
    never_ending(page)
    answer = ask(page, "And now?")
    page.wait_for_selector("#play-stop:enabled", timeout=SECONDS)
    answer.locator(".text", has_text=re.compile(r"\S")).wait_for(timeout=SECONDS)
    page.get_by_role("button", name="Stop", exact=True).click()
    assert wait_for_end(page).startswith("Stopped.")
    wait_for(lambda: not any(server["requests"] for server in service.servers()), 20)

    button(page, "Log", "phi-4").click()
    page.locator("#log-lines div", has_text="phi-4").first.wait_for(timeout=SECONDS)
    assert serious_findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    wait_for(lambda: page.evaluate(REQUESTS) == 0, 20)  # else the page asks what becomes of them
    unload(page, "phi-4")


def test_an_answer_ends_with_its_speed_and_stays_text(
    service: Service, machine: Machine, open_page: Callable[..., Any]
):
    page = open_page(service.url)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=SCRIPTED, content_type="text/event-stream"))
    answer = ask(page, "<b>Hi</b>", "qwen3-14b")
    assert re.fullmatch(
        r"7 tokens · 58 tokens/s · first token after [\d.]+ s · [\d.]+ s of it to load", wait_for_end(page)
    )
    assert answer.locator("pre").inner_text() == "<script>alert(1)</script>\n"
    assert answer.locator("b, script, img").count() == 0
    assert page.locator("#play-log .question .text").inner_text() == "<b>Hi</b>"
    assert answer.locator(".reasoning").get_attribute("open") is None
    assert answer.locator(".reasoning .text").text_content() == "I think."


SCRIPTED = """\
: loading qwen3-14b 42 %

data: {"choices": [{"delta": {"reasoning_content": "I think."}}]}

data: {"choices": [{"delta": {"content": "<img src=x onerror=alert(1)> **Look:**\\n```html\\n"}}]}

data: {"choices": [{"delta": {"content": "<script>alert(1)</script>\\n"}}]}

data: {"choices": [{"delta": {"content": "```\\nDone."}}]}

data: {"choices": [], "usage": {"completion_tokens": 7}, "timings": {"predicted_per_second": 58.2}}

data: [DONE]

"""


def test_an_error_is_shown_and_the_question_comes_back(service: Service, open_page: Callable[..., Any]):
    page = open_page(service.url, allowed="status of 422")
    answer = ask(page, "Hello!", "llama-3.3-70b")
    assert "llama-3.3-70b" in answer.get_by_role("alert").inner_text(timeout=SECONDS)
    assert page.get_by_role("textbox", name="Message").input_value() == "Hello!"


def test_enter_within_a_composition_does_not_send(service: Service, open_page: Callable[..., Any]):
    page = open_page(service.url)
    field = page.get_by_role("textbox", name="Message")
    field.fill("ni hao")
    field.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True, "cancelable": True})
    field.press("Shift+Enter")
    assert field.input_value() == "ni hao\n"
    assert page.locator("#play-log .question").count() == 0


def test_unloading_a_busy_model_asks_what_becomes_of_its_requests(
    service: Service, machine: Machine, open_page: Callable[..., Any]
):
    page = open_page(service.url)
    load(page, machine, "phi-4")
    with service.chat("phi-4", stream=True, max_tokens=30_000, ignore_eos=True) as stream:
        wait_for(lambda: page.evaluate(REQUESTS) > 0, 20)
        button(page, "Unload", "phi-4").click()
        dialog = page.get_by_role("dialog", name="Unload phi-4?")
        assert serious_findings(page) == []
        dialog.get_by_role("button", name="Cancel").click()
        assert button(page, "Unload", "phi-4").get_attribute("aria-disabled") == "false"
        button(page, "Unload", "phi-4").click()
        dialog.get_by_role("button", name="End it now").click()
        assert "model_unloaded" in stream.text
    wait_for_state(page, "phi-4", "unloaded")


# The page's own view: what it knows of requests.
REQUESTS = """async () => {
  const { current } = await import(document.querySelector("script[type=module]").src.replace("status.js", "store.js"));
  return current("status")?.servers.reduce((sum, server) => sum + server.requests, 0) ?? 0;
}"""


def test_why_shows_the_decisions_about_a_model(service: Service, machine: Machine, open_page: Callable[..., Any]):
    page = open_page(service.url)
    load(page, machine, "gemma-3-4b")
    button(page, "Why", "gemma-3-4b").click()
    dialog = page.get_by_role("dialog", name="Decisions about gemma-3-4b")
    assert "GPU" in dialog.get_by_role("listitem").first.inner_text()
    dialog.get_by_role("button", name="Close").click()
    button(page, "Pin", "gemma-3-4b").click()
    button(page, "Unpin", "gemma-3-4b").click(timeout=SECONDS)
    button(page, "Pin", "gemma-3-4b").wait_for(timeout=SECONDS)
    unload(page, "gemma-3-4b")
