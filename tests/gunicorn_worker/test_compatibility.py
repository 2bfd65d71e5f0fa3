"""What we rely on of gunicorn: public, listed, and there in the release that is installed."""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gunicorn
import pytest
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http import Request
from gunicorn.http.body import Body
from gunicorn.http.unreader import Unreader
from gunicorn.http.wsgi import Response
from gunicorn.workers.base import Worker

from workers.gunicorn_worker import compatibility
from workers.gunicorn_worker.body_reading import PacedUnreader
from workers.gunicorn_worker.compatibility import IMPORTED, OVERRIDDEN, USED
from workers.gunicorn_worker.logger import ServiceLogger
from workers.gunicorn_worker.worker import ProxyWorker
from workers.serve import Application

pytestmark = pytest.mark.gunicorn

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "workers" / "gunicorn_worker").glob("*.py")), ROOT / "workers" / "serve.py"]
CLASSES: dict[str, type] = {
    each.__name__: each for each in (Arbiter, BaseApplication, Body, Logger, Request, Response, Unreader, Worker)
}
# How our source calls what is gunicorn's.
VARIABLES = {"arbiter": "Arbiter", "request": "Request", "response": "Response", "worker": "Worker"}
SUBCLASSES = {"Worker": ProxyWorker, "Unreader": PacedUnreader, "Logger": ServiceLogger, "BaseApplication": Application}


def nodes() -> Iterator[ast.AST]:
    for source in SOURCES:
        yield from ast.walk(ast.parse(source.read_text()))


def test_what_is_imported_is_listed():
    found = defaultdict(set)
    for node in nodes():
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gunicorn":
            found[node.module] |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "gunicorn":
            found["gunicorn"].add(node.attr)
    assert found == IMPORTED


def test_what_is_used_of_its_objects_is_listed():
    """Those of `self` are left out: a subclass may call its own attributes as it likes, but see below."""
    for node in nodes():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in VARIABLES:
            name = VARIABLES[node.value.id]
            own = {"timeouts", "control"} if name == "Worker" else set()
            assert node.attr in USED[name] | OVERRIDDEN.get(name, set()) | own, ast.unparse(node)


def test_private_names_are_used_of_self_alone():
    private = [
        ast.unparse(node)
        for node in nodes()
        if isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr) and ast.unparse(node.value) != "self"
    ]
    assert private == ["os._exit"] * len(private)


def test_nothing_private_is_listed():
    names = {name for table in (IMPORTED, OVERRIDDEN, USED) for names in table.values() for name in names}
    assert not {name for name in names if name.startswith("_")}


@pytest.mark.parametrize("module", IMPORTED)
def test_what_is_imported_is_there(module: str):
    assert all(hasattr(importlib.import_module(module), name) for name in IMPORTED[module])


@pytest.mark.parametrize("name", [*USED, *OVERRIDDEN])
def test_what_is_used_or_overridden_is_there(name: str):
    assert USED.get(name, set()) | OVERRIDDEN.get(name, set()) <= attributes(CLASSES[name])


def attributes(cls: type) -> set[str]:
    """Those of the class, and those that its methods give an instance."""
    written = "".join(inspect.getsource(each) for each in cls.__mro__ if each is not object)
    return {*dir(cls), *re.findall(r"\bself\.(\w+)", written)}


@pytest.mark.parametrize("name", SUBCLASSES)
def test_a_subclass_overrides_what_is_listed(name: str):
    """And by accident nothing: neither a method nor what gunicorn keeps in an attribute of the same name."""
    subclass: Any = SUBCLASSES[name]
    own = {*vars(subclass), *re.findall(r"\bself\.(\w+) = ", inspect.getsource(subclass))}
    listed = OVERRIDDEN[name] | USED.get(name, set())
    assert {each for each in own & attributes(CLASSES[name]) if not each.startswith("__")} <= listed


def test_the_pinned_release_is_a_tested_one():
    pin = re.search(r"gunicorn ==(\d+)\.(\d+)", (ROOT / "setup.cfg").read_text())
    assert pin is not None and (int(pin[1]), int(pin[2])) in compatibility.TESTED


def test_a_tested_release_is_no_news(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    for minor in compatibility.TESTED:
        monkeypatch.setattr(gunicorn, "version_info", (*minor, 9))
        compatibility.warn_if_untested()
    assert caplog.records == []


def test_an_untested_release_is_warned_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gunicorn, "version_info", (27, 1, 0))
    compatibility.warn_if_untested()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("gunicorn 27.1.0 found, tested with 26.2 and 27.0: ")
    assert "CPU time" in record.message
