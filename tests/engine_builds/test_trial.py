"""A new engine is started on the CPU and on each device that it lists, by scripted engines."""

import pytest

from app.entities.engines import InstructionSet
from tests.helpers.fake_llama_server import install_fake
from workers.engine_builds import trial
from workers.engine_builds.stopping import CannotContinue
from workers.engine_builds.trial import try_engine
from workers.engine_builds.tried_build import tried_build

pytestmark = pytest.mark.integration

SETS = (InstructionSet.NATIVE, InstructionSet.AVX512, InstructionSet.AVX2)


def test_an_engine_answers_on_the_cpu_and_on_each_device_that_it_lists(tmp_path):
    cpu, gpus = try_engine(install_fake(tmp_path, FAKE_DEVICES="CUDA0,CUDA1"))
    assert (cpu.device, cpu.problem) == ("the CPU", "")
    assert [each.device.split()[0] for each in gpus] == ["CUDA0", "CUDA1"]
    assert not any(each.problem for each in gpus)


def test_a_crash_on_the_cpu_is_told_from_an_error_and_no_card_is_tried(tmp_path):
    cpu, gpus = try_engine(install_fake(tmp_path, FAKE_DEVICES="CUDA0", FAKE_CRASHES_ON="none"))
    assert cpu.crashed
    assert cpu.problem.startswith("ended by SIGSEGV")
    assert gpus == ()
    failed, _ = try_engine(install_fake(tmp_path, FAKE_LOAD="exit1"))
    assert not failed.crashed
    assert "unknown model architecture" in failed.problem, "its own words say why"


def test_a_crash_on_one_card_is_that_cards(tmp_path):
    cpu, gpus = try_engine(install_fake(tmp_path, FAKE_DEVICES="CUDA0,CUDA1", FAKE_CRASHES_ON="CUDA1"))
    assert not cpu.problem
    assert [each.crashed for each in gpus] == [False, True]


@pytest.mark.parametrize("fault", [{"FAKE_STATUS": 500}, {"FAKE_GARBAGE": 1}, {"FAKE_DIE_ON": "quick brown"}])
def test_an_engine_that_loads_and_does_not_answer_fails(tmp_path, fault):
    cpu, _ = try_engine(install_fake(tmp_path, **fault))
    assert cpu.problem
    assert cpu.crashed == ("FAKE_DIE_ON" in fault)


def test_an_engine_that_never_gets_ready_fails_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "TRIAL_SECONDS", 0.5)
    cpu, _ = try_engine(install_fake(tmp_path, FAKE_LOAD="hang"))
    assert cpu.problem.startswith("it was not ready after")
    assert not cpu.crashed


def test_an_engine_that_crashes_is_built_again_with_fewer_instructions_and_that_is_said(tmp_path):
    said: list[str] = []
    built: list[InstructionSet] = []

    def build(chosen: InstructionSet):
        built.append(chosen)
        return install_fake(tmp_path, FAKE_CRASHES_ON="" if chosen is InstructionSet.AVX2 else "none")

    found = tried_build(SETS, build, said.append)
    assert built == list(SETS)
    assert (found.instruction_set, found.note) == (InstructionSet.AVX2, "")
    assert "built for native, it fails on the CPU: ended by SIGSEGV" in said[0]
    assert said[1].endswith("It is built again for avx2")


def test_an_engine_that_works_nowhere_is_not_used(tmp_path):
    with pytest.raises(CannotContinue, match=r"the new engine is not used: .*unknown model architecture"):
        tried_build(SETS, lambda chosen: install_fake(tmp_path, FAKE_LOAD="exit1"), pytest.fail)
