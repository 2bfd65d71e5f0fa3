"""Models by name on the page: what fits, a download with its progress, its end, and the deletion."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.extra.page.actions import SECONDS, button, wait_for_state
from tests.extra.page.looks import serious_findings
from tests.helpers.hub_server import HubServer
from tests.helpers.service import Service, serving
from workers.catalog.demo_model import write_demo_model

REPO, NAME = "org/tiny-GGUF", "org/tiny-GGUF:Q4_K_M"
ROW = "#download-rows li"
STREAM_ENDED = "Failed to load resource"  # the service stops before the page
KEYS = {"admin": ("admins-key", {"admin": True}), "some": ("someones-key", {})}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    model = write_demo_model(tmp_path_factory.mktemp("hub"))
    with HubServer() as hub:
        hub.add(REPO, {f"tiny-{quant}.gguf": model for quant in ("Q8_0", "Q4_K_M")})
        hub.add("org/gated-GGUF", {"gated-Q4_K_M.gguf": model}, gated=True)
        yield hub


@contextlib.contextmanager
def by_name(folder: Path, hub: HubServer, *arguments: str, **settings: str) -> Iterator[Service]:
    plain = {"HF_ENDPOINT": hub.endpoint, "LLAMA_SMART_PROXY_GPU__ENABLED": "false"}
    with serving(folder, *arguments, plain=plain, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def service(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with by_name(tmp_path_factory.mktemp("by-name"), hub) as running:
        yield running


def name_it(page: Any, name: str) -> None:
    page.get_by_label("Hugging Face repository").fill(name)


@pytest.mark.parametrize("width", [360, 1280])
def test_a_model_is_planned_fetched_canceled_resumed_and_deleted(
    hub: HubServer, service: Service, open_page: Callable[..., Any], width: int
):
    page = open_page(service.url, width)
    name_it(page, REPO)
    page.keyboard.press("Enter")
    page.get_by_text("Recommended: Q4_K_M").wait_for(timeout=SECONDS)
    assert page.locator("#quant-rows tr").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    hub.hold("tiny-Q4_K_M", after=1_500_000)
    button(page, "Download", NAME).click()
    page.locator(ROW, has_text="downloading").wait_for(timeout=SECONDS)
    assert serious_findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    button(page, "Cancel", NAME).click()
    page.locator(ROW, has_text="canceled").wait_for(timeout=SECONDS)
    hub.release()
    page.locator(ROW).get_by_role("button", name=f"Download {NAME}").click()
    page.locator(ROW, has_text="complete").wait_for(timeout=SECONDS)
    wait_for_state(page, NAME, "unloaded")
    button(page, "Delete", NAME).click()
    dialog = page.locator("#delete-dialog")
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert button(page, "Delete", NAME).is_visible(), "nothing was deleted"
    button(page, "Delete", NAME).click()
    dialog.get_by_role("button", name="Delete its files").click()
    button(page, "Delete", NAME).wait_for(state="detached", timeout=SECONDS)


def test_what_is_wrong_is_said_beside_the_form(service: Service, open_page: Callable[..., Any]):
    page = open_page(service.url, allowed="Failed to load resource")
    status = page.locator("#pull-status")
    name_it(page, "../../etc/passwd")
    page.locator("#pull-now").click()
    status.get_by_text("is not the name of a Hugging Face repository").wait_for(timeout=SECONDS)
    name_it(page, "org/gated-GGUF")
    page.get_by_role("button", name="See what fits").click()
    status.get_by_text("licence").wait_for(timeout=SECONDS)
    assert page.locator("#quants").is_hidden()


def test_a_repositorys_texts_are_shown_as_text(service: Service, open_page: Callable[..., Any]):
    page, evil = open_page(service.url), "<img src=x onerror=alert(1)>"
    quant = {"name": evil, "quant": "", "size_bytes": 1, "needed_bytes": None, "ctx_size": 0, "outcome": None}
    quant |= {"text": "", "problem": evil, "recommended": True, "downloaded": False}
    answer = {"model": evil, "quants": [quant]}
    page.route("**/models/pull", lambda route: route.fulfill(json=answer))
    name_it(page, REPO)
    page.keyboard.press("Enter")
    page.get_by_text(evil).first.wait_for(timeout=SECONDS)
    assert page.locator("#downloads img").count() == 0


def test_without_scripts_downloads_are_said_and_nothing_can_be_pressed(
    service: Service, hub: HubServer, open_page: Callable[..., Any]
):
    assert service.post("/models/pull", {"model": "org/gated-GGUF"}).status_code < 500
    open_page(service.url).locator(ROW, has_text="org/gated-GGUF").filter(has_text="failed").wait_for(timeout=SECONDS)
    page = open_page(service.url, java_script_enabled=False)
    assert "org/gated-GGUF" in page.locator("#downloads").inner_text()
    assert "llama-smart-proxy pull" in page.locator("#downloads").inner_text()
    assert page.locator("button:visible").count() == 0


@pytest.mark.parametrize(("download", "who"), [("off", {"admin"}), ("allow", {"admin", "some"})])
def test_the_form_is_for_those_who_may_download(
    hub: HubServer, tmp_path: Path, open_page: Callable[..., Any], download: str, who: set[str]
):
    hub_settings = {"download": download, "allow": ["org/*"]}
    keys = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **more} for name, (key, more) in KEYS.items()
    ]
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"catalog": {"hugging_face": hub_settings}, "keys": keys}))
    with by_name(tmp_path, hub, "--config", str(file)) as service:
        for name, (key, _) in KEYS.items():
            page = open_page(service.url, allowed=STREAM_ENDED, http_credentials={"username": "me", "password": key})
            page.wait_for_selector("[data-connection=live]", timeout=SECONDS)
            assert page.locator("#pull-form").is_visible() == (name in who), name
