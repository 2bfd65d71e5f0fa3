"""Pure and integration tests, seeds of random tests, and cleanup after a killed pytest.

A pure test starts no process and opens no socket; `make check` runs only those. All others are marked `integration`:
singly, by module or by folder. An impure test without the mark fails.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.helpers.fixed_ram import fix_ram

INTEGRATION_FOLDERS = {"engine", "extra", "gunicorn_worker", "page", "service"}
IMPURE_EVENTS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "socket.__new__", "subprocess.Popen"}
PR_SET_PDEATHSIG = 1  # linux/prctl.h

pure_test: str | None = None  # the one that is running; written only by `pytest_runtest_protocol`


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "run each random test with N new seeds instead of its fixed ones; the summary and test names show them"
    parser.addoption("--random-seeds", type=int, metavar="N", help=help)
    parser.addoption("--seed", type=int, action="append", help="run each random test with this seed; may be repeated")


def pytest_configure(config: pytest.Config) -> None:
    # Without cached bytecode, each of about three hundred services would be compiled again.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["OLLAMA_MODELS"] = "/nonexistent"  # those of the machine that runs the tests are not served
    fix_ram()
    gc.disable()  # until all tests are collected: a million objects, none of which goes
    sys.addaudithook(forbid_in_pure_tests)
    if hasattr(config, "workerinput"):
        # If pytest is killed, its xdist workers are killed too, and with them the services they started.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    elif config.option.random_seeds:  # chosen here, so that all workers use the same
        config.option.seed = [random.SystemRandom().randrange(2**31) for _ in range(config.option.random_seeds)]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if seeds := terminalreporter.config.option.seed:
        terminalreporter.write_line("seeds: " + " ".join(f"--seed {seed}" for seed in seeds))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test with a `seed` argument with seed 0, or as many as its `seeds` mark states; options override both."""
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Commands write their options to the environment of their process, which here is that of the next test too."""
    before = our_variables()
    try:
        return (yield)
    finally:
        for name in our_variables():
            del os.environ[name]
        os.environ.update(before)


def our_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("LLAMA_SMART_PROXY_")}


def forbid_in_pure_tests(event: str, _: object) -> None:
    if pure_test and event in IMPURE_EVENTS:
        pytest.fail(f"{pure_test} is not pure ({event}): mark it with @pytest.mark.integration")
