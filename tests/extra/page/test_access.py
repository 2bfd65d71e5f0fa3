"""Who reaches the page how: below a path, with keys, as the 33rd viewer, across a restart."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.extra.page.actions import SECONDS, ask, button, never_ending, wait_for_end, wait_for_state
from tests.extra.page.proxy import below_a_path
from tests.helpers.service import Service, serving
from workers.catalog.demo_model import write_demo_model

MAX_VIEWERS = 32


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory):
    """A service with the key of an admin, one for a single model, and one that is both."""
    folder = tmp_path_factory.mktemp("keyed")
    demo = str(write_demo_model(folder))
    keys = [
        {"name": "ops", "sha256": sha256("admins-key"), "admin": True},
        {"name": "guest", "sha256": sha256("guests-key"), "models": ["public"]},
        {"name": "tenant", "sha256": sha256("tenants-key"), "models": ["public"], "admin": True},
    ]
    configuration = {"models": {"public": {"path": demo}, "secret": {"path": demo}}, "keys": keys}
    (folder / "config.json").write_text(json.dumps(configuration))
    with serving(folder, "--config", str(folder / "config.json")) as running:
        yield running


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def password(key: str) -> dict[str, dict[str, str]]:
    return {"http_credentials": {"username": "me", "password": key}}


def test_a_limited_key_sees_its_models_and_nothing_of_an_admins(keyed: Service, open_page: Callable[..., Any]):
    page = open_page(keyed.url, **password("guests-key"))
    never_ending(page)
    ask(page, "Hello!", "public")
    page.get_by_role("button", name="Stop", exact=True).click()
    wait_for_end(page)
    assert page.locator("button[data-action]").count() == 0
    assert page.locator("#logs").count() == 0
    assert "secret" not in page.content()
    assert "YOUR_KEY" in page.locator("#connect").text_content()
    assert "guests-key" not in page.content()


def test_a_limited_admin_reads_the_log_of_its_models_but_not_the_services(
    keyed: Service, open_page: Callable[..., Any]
):
    page = open_page(keyed.url, **password("tenants-key"))
    ask(page, "Hello!", "public")
    wait_for_end(page)
    page.get_by_role("tab", name="public").wait_for(timeout=SECONDS)
    page.locator("#log-lines").scroll_into_view_if_needed()
    page.locator("#log-lines div", has_text="print_timing").first.wait_for(timeout=SECONDS)
    assert page.get_by_role("tab", name="service").count() == 0


def test_a_key_given_as_password_loads_and_unloads(keyed: Service, open_page: Callable[..., Any]):
    page = open_page(keyed.url, **password("admins-key"))
    button(page, "Load", "secret").click()
    wait_for_state(page, "secret", "ready")
    button(page, "Unload", "secret").click()
    wait_for_state(page, "secret", "unloaded")


def test_the_page_works_below_a_path(service: Service, open_page: Callable[..., Any]):
    with below_a_path(service.url) as url:
        page = open_page(url)
        assert page.locator("#base-url").inner_text() == f"{url}v1"
        button(page, "Load", "mistral-small-24b").click()
        wait_for_state(page, "mistral-small-24b", "ready")
        ask(page, "Hello!", "mistral-small-24b")
        assert "tokens/s" in wait_for_end(page)
        button(page, "Unload", "mistral-small-24b").click()
        wait_for_state(page, "mistral-small-24b", "unloaded")
        page.close()


def test_an_open_page_survives_a_restart_of_the_service(tmp_path: Path, open_page: Callable[..., Any]):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with serving(tmp_path, "--port", port) as first:
        page = open_page(first.url, allowed="ERR_")
        wait_for_state(page, "demo", "unloaded")
        first.stop()
        page.locator("#connection:visible").wait_for(timeout=SECONDS)
    with serving(tmp_path, "--port", port) as second:
        assert second.chat().status_code == 200
        wait_for_state(page, "demo", "ready")
        page.locator("#connection").wait_for(state="hidden", timeout=SECONDS)


def test_the_33rd_viewer_polls(keyed: Service, open_page: Callable[..., Any]):
    lines: list[Iterator[bytes]] = []
    with contextlib.ExitStack() as viewers:
        for _ in range(MAX_VIEWERS):
            stream = requests.get(f"{keyed.url}/status/stream", auth=("me", "admins-key"), stream=True, timeout=20)
            viewers.callback(stream.close)
            lines.append(stream.iter_lines())  # one that is collected closes its connection
            next(lines[-1])
        page = open_page(keyed.url, allowed="503", **password("admins-key"))
        page.get_by_text("updated every 5 s").wait_for(timeout=SECONDS)
        button(page, "Load", "secret").click()
        wait_for_state(page, "secret", "ready")


def test_without_a_clipboard_the_text_is_copied_or_left_selected(service: Service, open_page: Callable[..., Any]):
    """Over plain HTTP from another machine, browsers offer no clipboard."""
    page = open_page(service.url)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="Copy the base URL").click()
    assert page.evaluate("String(getSelection())") == f"{service.url}/v1"
    assert page.get_by_role("button", name="Copy the base URL").inner_text() in ("Copied", "Press Ctrl+C")
