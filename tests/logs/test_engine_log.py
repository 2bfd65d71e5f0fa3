"""What is kept of an engine's lines, and where: nothing that may have prompts reaches a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.entities.launch import EngineFacts, EngineKind
from app.use_cases.launch.log_verbosity import logs_prompts
from workers.logs.engine_log import IN_MEMORY_ONLY, EngineLog, secret_values
from workers.logs.engine_text import kept_text
from workers.logs.files import LogFiles
from workers.logs.history import LogHistory


def kept(folder: Path, *lines: str, starts_with_prompts: bool = False, has_requests: bool = True) -> tuple[str, str]:
    """What the history and the file have of these lines."""
    history = LogHistory()
    log = EngineLog(history, LogFiles(folder, True), "a/b", 3, starts_with_prompts, 77)
    log.add(lines, has_requests)
    log.ended("exit status 1")
    in_memory = "\n".join(line.text for line in history.last("a/b").lines)
    return in_memory, "".join(file.read_text() for file in folder.iterdir())


def test_lines_have_their_server_and_time_and_say_how_it_began_and_ended(tmp_path: Path):
    in_memory, in_file = kept(tmp_path, "0.01.002.003 I srv  loaded")
    assert in_memory == "--- started, pid 77\n0.01.002.003 I srv  loaded\n--- exit status 1"
    assert [line[23:] for line in in_file.splitlines()] == [f" [3] {text}" for text in in_memory.splitlines()]


def test_at_a_verbosity_that_logs_prompts_nothing_is_written(tmp_path: Path):
    in_memory, in_file = kept(tmp_path, "0.01 I srv  secret", starts_with_prompts=True)
    assert IN_MEMORY_ONLY in in_memory and "secret" in in_memory and in_file == ""


def test_from_the_first_debug_line_on_nothing_is_written(tmp_path: Path):
    """A script that runs the engine may set any verbosity."""
    in_memory, in_file = kept(tmp_path, "0.01 I init", "0.02 D slot secret", "0.03 I srv  secret")
    assert IN_MEMORY_ONLY in in_memory and "secret" in in_memory
    assert "secret" not in in_file


def test_a_request_without_the_key_is_kept_unless_it_is_our_probe():
    line = "0.00.301.638 W srv    operator(): unauthorized: Invalid API Key"
    assert kept_text(line, may_quote=False) is None, "before it is ready"
    assert kept_text(line, may_quote=True) == line


def test_an_idle_engine_does_not_repeat_that_it_is_idle(tmp_path: Path):
    """It says so after each reading of its metrics, and that would be all that its log shows."""
    idle = "0.08.480.200 I srv  update_slots: all slots are idle"
    in_memory, in_file = kept(
        tmp_path, "0.01.000.001 I srv  loaded", idle, idle, "0.09.000.001 I slot launch", idle, idle
    )
    assert in_memory.splitlines()[1:-1] == [
        "0.01.000.001 I srv  loaded",
        idle,
        "0.09.000.001 I slot launch",
        idle,
    ]
    assert in_file.count("idle") == 2


@pytest.mark.parametrize(
    "line",
    [
        "srv  log_server_r: request: GET /health 127.0.0.1 200",
        "0.01.000.000 I srv  log_server_r: done request: GET /slots 127.0.0.1 200",
        "request: GET /props 127.0.0.1 401",
        "request: GET /metrics 127.0.0.1 200",
        'cmd_child_to_router:state:{"state":"loading"}',
        " ",
    ],
)
def test_our_own_probes_are_left_out(line: str):
    assert kept_text(line, may_quote=True) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '0.02 W srv    operator(): got exception: {"error":{"code":400,"message":"last read: \'secret"}}',
            "0.02 W srv    operator(): got exception: (status 400; its message may quote the request and is not kept)",
        ),
        ("got exception: secret", "got exception: (its message may quote the request and is not kept)"),
        ("0.03 W common_sampler: unable to match sampler by name 'secret'", "unable to match sampler by name '...'"),
        ('root ::= "secret', None),
        ("A ::= [secret]", None),
        ("request ::= [secret]", None),
        ("I have a secret", None),
        ("E srv  send_error: no slot", "E srv  send_error: no slot"),
        ('   2 | start: %json {"type":"secret"}', None),
        (
            '0.03 E llg error: at 2(8): bad "secret',
            "0.03 E llg error: (its message may quote the request and is not kept)",
        ),
        ("srv  update_slots: all slots are idle", "srv  update_slots: all slots are idle"),
        ("/x/ggml.c:12: GGML_ASSERT(a < b) failed", "/x/ggml.c:12: GGML_ASSERT(a < b) failed"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "an instance of 'std::bad_alloc'"),
    ],
)
def test_what_quotes_a_request_is_not_kept(line: str, expected: str | None):
    found = kept_text(line, may_quote=True)
    assert found == expected or (found and expected and found.endswith(expected) and "secret" not in found)


def test_a_line_before_the_first_request_quotes_nobody():
    assert kept_text("a 'quote' of the loader", may_quote=False) == "a 'quote' of the loader"


def test_a_backtrace_that_was_asked_for_is_kept(tmp_path: Path):
    lines = ("root ::= x", "/x/ggml.c:1: GGML_ABORT", "#0  0x00007f in wait4 ()", "[New LWP 12]")
    in_memory, _ = kept(tmp_path, *lines)
    assert "root" not in in_memory and in_memory.endswith("#0  0x00007f in wait4 ()\n[New LWP 12]\n--- exit status 1")


def test_secrets_of_its_environment_are_not_kept(tmp_path: Path):
    history = LogHistory()
    secrets = secret_values({"HF_TOKEN": "hf_0123456789", "LLAMA_API_KEY": "k" * 32, "N_KEYS": "4", "HOME": "/home/x"})
    log = EngineLog(history, LogFiles(tmp_path, True), "m", 1, False, 1, secrets)
    log.add(["0.01 I token hf_0123456789", "0.02 I key=" + "k" * 32 + " n=4 /home/x"], False)
    assert [line.text for line in history.last("m").lines][1:] == ["0.01 I token ***", "0.02 I key=*** n=4 /home/x"]
    assert "hf_" not in (tmp_path / "m.log").read_text()


NEW = EngineFacts(EngineKind.BINARY, ("s",), "1", "i", frozenset({"--log-jsonl"}))
OLD = EngineFacts(EngineKind.BINARY, ("s",), "1", "i", frozenset())
EMBEDDED = EngineFacts(EngineKind.EMBEDDED, ("s",), "1", "i", frozenset())


@pytest.mark.parametrize(
    ("engine", "argv", "env", "expected"),
    [
        (NEW, "-lv 4", {}, False),
        (NEW, "-lv 5", {}, True),
        (NEW, "-v", {}, True),
        (NEW, "-v -lv 4", {}, False),
        (NEW, "--log_verbosity 9", {}, True),
        (NEW, "--verbosity x", {}, True),
        (NEW, "", {"LLAMA_ARG_LOG_VERBOSITY": "5"}, True),
        (NEW, "-lv 3", {"LLAMA_LOG_VERBOSITY": "5"}, False),
        (EMBEDDED, "--verbosity 4", {}, False),
        (EMBEDDED, "--verbose", {}, True),
        (OLD, "", {}, False),
        (OLD, "-lv 1", {}, True),
        (OLD, "-lv 0", {}, False),
    ],
)
def test_the_verbosity_at_which_prompts_are_logged(engine: EngineFacts, argv: str, env: dict[str, str], expected: bool):
    assert logs_prompts(["llama-server", *argv.split(), "--port", "0"], env, engine) == expected
