"""Engines that models have of their own."""

from collections.abc import Callable
from pathlib import Path

from app.entities.launch import EngineUse, OwnEngine
from tests.engine.test_binary import program
from workers.engine.current_engine import CurrentEngine
from workers.engine.engines import Engines

WAITS_FOR_THE_OTHER = """\
touch {me}
until test -e {other}; do sleep 0.05; done
echo 'version: 1 (a)'; echo '--model F, --port P'"""


def build(own: OwnEngine, report: Callable[[str], None]) -> CurrentEngine:
    return CurrentEngine(own.binary, report=report)


def engine_that_waits(folder: Path, me: str, other: str) -> OwnEngine:
    text = WAITS_FOR_THE_OTHER.format(me=folder / f"{me}.asked", other=folder / f"{other}.asked")
    return OwnEngine(str(program(folder, text, me)))


def test_all_are_asked_at_the_same_time(tmp_path: Path):
    """A start with thirty engines that hang would else take ten minutes."""
    own = engine_that_waits(tmp_path, "a", "b"), engine_that_waits(tmp_path, "b", "a")
    engines = Engines(build(OwnEngine(str(program(tmp_path, "exit", "service"))), str), build)
    assert engines.use({engine: EngineUse((engine.binary,)) for engine in own})
    assert [state.problem for state in engines.states().values()] == ["", ""]
