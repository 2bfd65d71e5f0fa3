"""A model that does not start with what the placement has it draft tokens with is started without."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from app.entities.gpu import NOT_READ
from app.entities.launch import DRAFTS_ITSELF
from app.settings.schema import Settings
from app.use_cases.model_shape.shape import model_shape
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import a_launch, a_model, a_server
from workers.builders import build_spawn
from workers.catalog.demo_model import write_demo_model
from workers.catalog.model_headers import ModelHeaders
from workers.engine import embedded_engine
from workers.engine.current_engine import CurrentEngine
from workers.engine.engines import Engines
from workers.pool.estimate_source import EstimateSource
from workers.state_files import StateFiles
from workers.telemetry.store import StateStore

# With a file called "broken" beside it, no start succeeds.
WITHOUT_MTP = """\
#!{python}
import os, sys
open({starts!r}, "a").write(" ".join(sys.argv) + chr(10))
if "--spec-type" in sys.argv or ("--model" in sys.argv and os.path.exists({starts!r} + ".broken")):
    sys.exit("E this model has no such layers")
os.execv({python!r}, [{python!r}, "-P", {engine!r}, *sys.argv[1:]])
"""


@pytest.mark.integration
def test_a_start_that_drafting_breaks_is_repeated_without_it(tmp_path: Path):
    starts, program = tmp_path / "starts", tmp_path / "llama-server"
    program.write_text(WITHOUT_MTP.format(python=sys.executable, engine=embedded_engine.__file__, starts=str(starts)))
    program.chmod(0o755)
    settings, engine = Settings(), CurrentEngine(str(program))
    assert engine.facts is not None and f"--spec-type {DRAFTS_ITSELF}" in engine.facts.flags, engine.problem
    files = StateFiles(tmp_path / "state", settings)
    files.records.begin()
    needs = EstimateSource(files.history, lambda own: engine.refresh(), ModelHeaders(model_shape), lambda: NOT_READ)
    spawn = build_spawn(settings, Engines(engine, lambda own, report: engine), files, needs, StateStore(PoolState()))
    demo = write_demo_model(tmp_path)
    model = replace(a_model(), path=str(demo), size_bytes=demo.stat().st_size, launch=a_launch(ctx_size=512))
    server = a_server(model, 1)
    placement = replace(server.placement, ctx_size=512, speculation=DRAFTS_ITSELF, draft_head=str(demo))
    server = replace(server, placement=placement)
    starts.unlink()
    broken = tmp_path / "starts.broken"
    broken.touch()
    for number in (1, 2, 3):
        happened, ready = [], threading.Event()

        def post(event: ev.Event, happened: list[ev.Event] = happened, ready: threading.Event = ready) -> None:
            happened.append(event)
            if isinstance(event, ev.Ready | ev.Exited):
                ready.set()

        process = spawn(replace(server, id=number), post)
        assert ready.wait(30)
        process.kill()
        assert any(isinstance(event, ev.Ready) for event in happened) == (number > 1), happened
        broken.unlink(missing_ok=True)
    drafting = ["--spec-type" in line for line in starts.read_text().splitlines()]
    assert drafting[:2] == [True, False], "the first load fails with and without, so that drafting is not to blame"
    assert drafting[2:] == [True, False, False], "the third load does not try it again"
    assert drafting == [f"--model-draft {demo}" in line for line in starts.read_text().splitlines()]
    files.records.end()
