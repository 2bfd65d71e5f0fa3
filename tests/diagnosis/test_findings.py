"""Findings about the engine, models, machine, configuration and service."""

from __future__ import annotations

from typing import Any

import pytest

from app.entities.launch import EngineFacts, EngineKind
from app.entities.model import ModelSource
from app.use_cases.diagnosis.configuration import ConfigurationFacts, configuration_findings
from app.use_cases.diagnosis.engine import EngineDiagnosis, engine_findings
from app.use_cases.diagnosis.finding import Finding, good, problem, totals_line, warning
from app.use_cases.diagnosis.machine import (
    Directory,
    ListeningAddress,
    ProcessLimits,
    address_findings,
    directory_findings,
    limit_findings,
)
from app.use_cases.diagnosis.models import CheckedModel, ModelFacts, ModelFolder, model_findings
from app.use_cases.diagnosis.service import InstalledUnit, RunningService, service_findings, unit_findings
from app.use_cases.placement.engine_gpus import DeviceList
from app.use_cases.placement.vulkan_gpus import ListedDevice

GIB = 1024**3
ENGINE = EngineFacts(EngineKind.BINARY, ("/opt/llama-server",), "b1", "id", frozenset())
CUDA = DeviceList((ListedDevice("CUDA0", "RTX 4090", 24080),))


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    """Level and text."""
    return [(str(each.level), each.text) for each in findings]


def levels(findings: list[Finding]) -> str:
    return " ".join(each.level for each in findings)


def test_the_report_says_the_fix_below_and_the_counts_at_the_end():
    found = [good("a", "fine"), warning("b", "low\nspace", "df"), problem("c", "no"), problem("d", "no")]
    lines = ["ok    a: fine", "warn  b: low space", "      -> df", "FAIL  c: no", "FAIL  d: no"]
    assert [line for each in found for line in each.lines()] == lines
    assert [totals_line(found), totals_line(found[:1]), totals_line(found[:2])] == [
        *("2 problems, 1 warning", "no problems", "1 warning")
    ]


# --- the engine ---------------------------------------------------------------------------------------


def engine(has_gpus: bool = True, **facts: Any) -> list[Finding]:
    return engine_findings(EngineDiagnosis(**{"engine": ENGINE, "devices": CUDA, **facts}), has_gpus)


def test_an_engine_that_works_is_one_line():
    assert said(engine()) == [("ok", "llama-server b1 (/opt/llama-server), CUDA build, lists CUDA0 (RTX 4090)")]


def test_without_an_engine_the_fix_is_the_next_step():
    missing = "no llama-server to run: none on PATH. Next: install llama.cpp"
    found, skipped = engine(engine=None, missing=missing, notes=("engine skipped: x",))
    assert (found.text, found.fix) == ("no llama-server to run: none on PATH", "install llama.cpp")
    assert (skipped.level, skipped.text) == ("warn", "engine skipped: x")


def test_an_engine_that_hangs_is_a_problem():
    why = "its --list-devices: no answer within 90 s"
    assert said(engine(devices=None, unanswered=why))[1:] == [("FAIL", why)]


def test_an_engine_that_is_not_asked_for_gpus_is_a_warning_where_there_are_some():
    assert levels(engine(assumes_gpu=True, devices=None)) == "ok warn"
    assert levels(engine(devices=None)) == "ok warn"
    assert levels(engine(has_gpus=False, devices=None)) == "ok"


def test_a_backend_whose_libraries_are_missing_is_a_problem_where_it_is_needed():
    lacking = {"/opt/libggml-cuda.so": ("libcudart.so.12", "libcublas.so.12")}
    text = "/opt/libggml-cuda.so needs libcudart.so.12, libcublas.so.12, not found: the engine ignores this backend"
    assert said(engine(unresolved=lacking))[1:] == [("FAIL", text)]
    assert said(engine(has_gpus=False, unresolved=lacking))[1:] == [("warn", text)]


def test_a_driver_without_its_cuda_library_is_a_problem():
    libraries = {"libcuda.so.1": False, "libvulkan.so.1": False}
    assert levels(engine(libraries=libraries)) == "ok FAIL"
    assert levels(engine(has_gpus=False, libraries=libraries)) == "ok"
    lacking = {"/opt/libggml-vulkan.so": ("libvulkan.so.1",)}
    assert levels(engine(has_gpus=False, libraries=libraries, unresolved=lacking)) == "ok warn warn"


# --- models -------------------------------------------------------------------------------------------


def test_broken_models_are_counted_and_those_that_the_configuration_names_are_problems():
    models = [CheckedModel("a"), CheckedModel("b", problem="cut off"), CheckedModel("c", problem="no such file: x")]
    facts = ModelFacts([ModelFolder("/m")], models, frozenset({"c"}))
    assert said(model_findings(facts)) == [
        *(("ok", "3 in 1 folder, 2 broken"), ("warn", "cut off"), ("FAIL", "no such file: x"))
    ]


def test_a_missing_companion_is_a_problem_of_its_model():
    found = model_findings(ModelFacts(models=[CheckedModel("a", missing=("/draft.gguf",))]))[-1]
    assert (found.subject, found.level) == ("model a", "FAIL")
    assert found.text == "/draft.gguf, which its settings name, does not exist or cannot be read"


def test_folders_without_a_model_that_can_be_served_are_a_problem():
    assert levels(model_findings(ModelFacts([ModelFolder("/m")]))) == "FAIL"
    facts = ModelFacts([ModelFolder("/m", "Permission denied")], notes=["/m/x cannot be read"])
    found = model_findings(facts)
    assert levels(found) == "FAIL FAIL warn"
    assert (found[0].text, found[0].fix) == ("/m: Permission denied", "ls -ld /m; or correct catalog.models_dirs")


def test_a_warning_of_the_scan_says_its_fix():
    found = model_findings(
        ModelFacts(models=[CheckedModel("a")], notes=["/x cannot be read: Denied; do this, or that"])
    )
    assert (found[-1].text, found[-1].fix) == ("/x cannot be read: Denied", "do this, or that")


def test_without_configured_models_the_demo_model_is_served():
    assert levels(model_findings(ModelFacts(is_configured=False))) == "ok"


def test_models_are_counted_by_where_they_were_found():
    own, cached, pulled = (
        CheckedModel("a"),
        *(CheckedModel("b", source=source) for source in (ModelSource.HUGGING_FACE, ModelSource.OLLAMA)),
    )
    facts = ModelFacts([ModelFolder("/m"), ModelFolder("/n")], [own, pulled, cached, pulled])
    assert said(model_findings(facts)) == [
        ("ok", "4: 1 in 2 folders, 1 in the Hugging Face cache, 2 from Ollama"),
    ]
    assert said(model_findings(ModelFacts(models=[pulled], is_configured=False))) == [("ok", "1: 1 from Ollama")]


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("Permission denied: x", "chmod"),
        ("no such file: x", "models.NAME.path"),
        ("cut off", "download the file again"),
    ],
)
def test_the_fix_of_a_broken_model_follows_from_the_reason(words: str, fix: str):
    assert fix in model_findings(ModelFacts(models=[CheckedModel("a", problem=words)]))[-1].fix


# --- the machine --------------------------------------------------------------------------------------


def state_directory(free_bytes: int | None = 99 * GIB, is_writable: bool = True, kept_bytes: int = 0) -> list[str]:
    found = directory_findings([Directory("state", "/s", is_writable, free_bytes, kept_bytes, "XDG_STATE_HOME")])
    return [f"{level} {text}" for level, text in said(found)]


def test_directories_that_are_writable_are_one_line_with_the_free_space():
    assert state_directory() == ["ok writable: state /s (99.0 GiB free)"]
    assert state_directory(free_bytes=None) == ["ok writable: state /s"]
    assert state_directory(is_writable=False) == ["FAIL the state directory /s cannot be written"]


def test_a_full_disk_is_a_problem_and_little_space_a_warning():
    assert state_directory(free_bytes=1024**2) == ["FAIL 1 MiB free for /s (state)"]
    assert state_directory(free_bytes=GIB) == ["warn 1.0 GiB free for /s (state)"]
    assert state_directory(free_bytes=8 * GIB, kept_bytes=16 * GIB) == [
        "warn 8.0 GiB free for /s (state); saved KV caches may take 16.0 GiB"
    ]


def address(**facts: Any) -> list[tuple[str, str]]:
    return said(address_findings(ListeningAddress("127.0.0.1", 8080, **facts)))


def test_an_address_is_free_ours_or_somebody_elses():
    assert address() == [("ok", "127.0.0.1 port 8080 is free")]
    in_use = "Address already in use"
    assert address(error=in_use, is_ours=True) == [("ok", "127.0.0.1 port 8080: this service runs there")]
    assert address(error=in_use, owner="nginx (pid 7)") == [
        ("FAIL", "cannot listen on 127.0.0.1 port 8080: Address already in use; nginx (pid 7) has it")
    ]


def test_another_service_on_the_state_directory_is_a_problem():
    assert address(state_owner="7")[1:] == [("FAIL", "another service (pid 7) uses it: a second one does not start")]


def limits(**facts: Any) -> list[tuple[str, str]]:
    roomy = {"open_files": None, "tasks": None, "locked_bytes": None, "threads": 512}
    return said(limit_findings(ProcessLimits(**{**roomy, **facts})))


def test_limits_that_suffice_are_one_line():
    text = "4096 open files, unlimited processes and threads; locked memory 8192 KiB, which only --mlock needs"
    assert limits(open_files=4096, locked_bytes=8 * 1024**2) == [("ok", text)]


def test_limits_that_are_too_low_are_warnings_with_the_number_that_is_needed():
    # 512 threads x 2 files + 256; 512 threads + 256
    assert limits(open_files=1024, tasks=600) == [
        ("warn", "1024 open files; 512 requests at a time need up to 1280"),
        ("warn", "600 processes and threads; 512 requests at a time need up to 768"),
    ]


def test_a_locked_model_larger_than_the_memory_lock_limit_is_a_warning():
    assert limits(locked_bytes=8 * 1024**2, locking=[("a", 5 * GIB)]) == [
        ("warn", "8192 KiB of locked memory; a has --mlock and 5.0 GiB")
    ]
    assert limits(locking=[("a", 5 * GIB)])[0][0] == "ok"


# --- configuration, service, unit ---------------------------------------------------------------------


def test_errors_of_the_configuration_are_problems_and_its_warnings_are_warnings():
    assert said(configuration_findings(ConfigurationFacts("c.yaml", reach="port 1"))) == [("ok", "c.yaml; port 1")]
    found = configuration_findings(ConfigurationFacts("c.yaml", ["c.yaml: colour: unknown key"]))
    assert said(found) == [("FAIL", "c.yaml: colour: unknown key")]
    assert levels(configuration_findings(ConfigurationFacts(warnings=["old key"]))) == "ok warn"


def test_a_configuration_that_others_can_write_is_a_problem():
    facts = ConfigurationFacts("c.yaml", is_writable_by_others=True, exposes_secrets=True)
    assert levels(configuration_findings(facts)) == "ok FAIL warn"


def service(**facts: Any) -> list[str]:
    found = service_findings(RunningService("http://x", **{"version": "1", **facts}), "1", "b1")
    return [f"{each.level} {each.text}" for each in found]


def test_each_reason_of_a_degraded_service_is_a_problem():
    assert service_findings(None, "1", "") == []
    assert service() == ["ok version 1 answers at http://x; not degraded"]
    assert service(degraded=True, reasons=("GPU 1 is missing", "no engine")) == [
        "FAIL degraded: GPU 1 is missing",
        "FAIL degraded: no engine",
    ]
    assert service(degraded=True)[0].startswith("warn version 1 answers at http://x; it is degraded")


def test_a_service_older_than_the_program_or_the_driver_needs_a_restart():
    assert service(version="0.9")[1:] == ["warn version 0.9 runs, 1 is installed"]
    assert service(engine="b0")[1:] == ["ok its engine is b0; b1 is used from the next load on"]
    assert service(is_driver_replaced=True)[1:] == [
        "FAIL the NVIDIA driver was replaced since it started: new loads may find no GPU"
    ]


def unit(**facts: Any) -> str:
    return levels(unit_findings(InstalledUnit(**{"path": "/u.service", **facts}), "ann"))


def test_a_unit_that_cannot_work_is_a_problem_and_an_old_one_a_warning():
    assert unit(path="") == unit(state="active") == unit(is_of_user=True, lingers=True) == "ok"
    assert (unit(has_program=False), unit(state="failed")) == ("FAIL", "FAIL")
    assert (unit(differs=True), unit(is_of_user=True)) == ("warn", "warn")
