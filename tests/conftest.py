"""Which tests are pure, which seeds random tests use, and what becomes of the processes of a pytest that is killed.

A pure test starts no process and opens no socket; `make check` runs those. The others are marked `integration`, one by
one, by module or by folder. A test that is neither pure nor marked fails, wherever it is run.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.helpers.fixed_ram import fix_ram

INTEGRATION_FOLDERS = {"engine", "extra", "gunicorn_worker", "service"}
IMPURE_EVENTS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "socket.__new__", "subprocess.Popen"}
PR_SET_PDEATHSIG = 1  # linux/prctl.h

pure_test: str | None = None  # that runs just now; written by `pytest_runtest_protocol` alone


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "run each random test with N new seeds instead of its fixed ones; they are printed, and part of its name"
    parser.addoption("--random-seeds", type=int, metavar="N", help=help)
    parser.addoption("--seed", type=int, action="append", help="run each random test with this seed; may be repeated")


def pytest_configure(config: pytest.Config) -> None:
    # Without its bytecode, each of some three hundred services would compile itself again.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    fix_ram()
    sys.addaudithook(forbid_in_pure_tests)
    if hasattr(config, "workerinput"):
        # A worker of pytest-xdist is killed with its pytest, and the services it has started with it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    elif config.option.random_seeds:  # drawn here, so that all workers get the same
        config.option.seed = [random.SystemRandom().randrange(2**31) for _ in range(config.option.random_seeds)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if seeds := terminalreporter.config.option.seed:
        terminalreporter.write_line("seeds: " + " ".join(f"--seed {seed}" for seed in seeds))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `seed` runs with 0, or with as many as its mark `seeds` says, unless told otherwise."""
    if "seed" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("seeds")
        seeds = metafunc.config.option.seed or range(mark.args[0] if mark else 1)
        metafunc.parametrize("seed", seeds, ids="seed={}".format, scope="module")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in INTEGRATION_FOLDERS:
            item.add_marker("integration")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global pure_test
    pure_test = None if item.get_closest_marker("integration") else item.nodeid
    try:
        return (yield)
    finally:
        pure_test = None


def forbid_in_pure_tests(event: str, _: object) -> None:
    if pure_test and event in IMPURE_EVENTS:
        pytest.fail(f"{pure_test} is not pure ({event}): mark it with @pytest.mark.integration")
