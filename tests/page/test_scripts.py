"""The scripts' views are those of app.page: a page without scripts and a live one say the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from app.page.activity import decisions_view, header_view, hour_view, queue_view, requests_view
from app.page.downloads import downloads_view
from app.page.gpus import gpus_view
from app.page.models import model_rows
from app.page.peers import peers_view
from app.routes.assets import FOLDER
from tests.page.samples import HISTORY, PLAN, QUANTS, STATUSES

NODE = shutil.which("node")
SCRIPT = """
import * as activity from "./activity.mjs";
import { actionsFor } from "./actions.mjs";
import { downloadsView } from "./downloads.mjs";
import { gpusView } from "./gpus.mjs";
import { modelRows } from "./models.mjs";
import { peersView } from "./peers.mjs";
import { planText, quantView } from "./pull.mjs";
import { readFileSync } from "node:fs";
const { statuses, plan, history, quants } = JSON.parse(readFileSync(0));
console.log(JSON.stringify(statuses.map((status) => ({
  header: activity.headerView(status), memory: gpusView(status, history), models: modelRows(status, plan),
  peers: peersView(status), downloads: downloadsView(status),
  queue: activity.queueView(status), hour: activity.hourView(status),
  decisions: activity.decisionsView(status), requests: activity.requestsView(status),
  actions: Object.fromEntries(plan.models.map((model) => [model.id, actionsFor(model)])),
  quants: quants.map(quantView), planText: planText(quants),
}))));
"""


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("scripts")
    for path in FOLDER.glob("*.js"):  # .mjs: every version of Node takes them for modules
        (folder / path.with_suffix(".mjs").name).write_text(path.read_text().replace('.js";', '.mjs";'))
    (folder / "views.mjs").write_text(SCRIPT)
    samples = json.dumps({"statuses": STATUSES, "plan": PLAN, "history": HISTORY, "quants": QUANTS})
    environment = os.environ | {"TZ": "UTC"}
    ran = subprocess.run(
        [str(NODE), str(folder / "views.mjs")],
        input=samples,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return list(json.loads(ran.stdout))


@pytest.mark.integration
@pytest.mark.skipif(NODE is None, reason="no Node")
@pytest.mark.parametrize("number", range(len(STATUSES)))
def test_the_page_says_the_same_with_and_without_scripts(
    scripted: list[dict[str, Any]], number: int, monkeypatch: pytest.MonkeyPatch
):
    status = STATUSES[number]
    header = {name: value for name, value in header_view(status).items() if name != "reasons"}
    rendered = {
        "header": header,
        "memory": gpus_view(status, HISTORY),
        "models": model_rows(status, PLAN),
        "peers": peers_view(status),
        "downloads": downloads_view(status),
        "queue": queue_view(status),
        "hour": hour_view(status),
        "decisions": decisions_view(status),
        "requests": requests_view(status),
    }
    for section, view in rendered.items():
        assert _comparable(view) == _comparable(scripted[number][section]), section


@pytest.mark.integration
@pytest.mark.skipif(NODE is None, reason="no Node")
def test_a_model_that_failed_can_be_tried_again_and_its_log_read(scripted: list[dict[str, Any]]):
    actions = scripted[0]["actions"]
    assert actions["broken"] == ["load", "log", "why"]
    assert actions["qwen3-14b"] == ["unload", "pin", "log", "why"]
    assert actions["phi-4"] == ["load", "unpin", "log", "why"]


@pytest.mark.integration
@pytest.mark.skipif(NODE is None, reason="no Node")
def test_only_what_is_in_the_hugging_face_cache_can_be_deleted(scripted: list[dict[str, Any]]):
    deletable = [name for name, actions in scripted[0]["actions"].items() if "delete" in actions]
    assert deletable == ["gemma"]


@pytest.mark.integration
@pytest.mark.skipif(NODE is None, reason="no Node")
def test_a_quant_that_can_be_had_has_a_button_and_one_is_recommended(scripted: list[dict[str, Any]]):
    shown = [
        (each["quant"], each["mark"], each["now"], each["now_class"], each["action"]) for each in scripted[0]["quants"]
    ]
    assert shown == [
        ("Q4_K_M", "recommended", "fits GPU 1", "ok", "pull"),
        ("Q6_K", "downloaded", "would evict phi-4", "warn", ""),
        ("F16", "", "never: needs 40 GiB", "bad", ""),
        ("org/a:odd.gguf", "", "its header cannot be read", "bad", ""),
    ]
    assert scripted[0]["planText"] == "Recommended: Q4_K_M, the largest that fits."


def _comparable(view: Any) -> Any:
    """As JSON, without times, which the scripts show in the reader's zone."""
    return json.loads(
        json.dumps(view), object_hook=lambda each: {k: v for k, v in each.items() if k not in ("iso", "time")}
    )
