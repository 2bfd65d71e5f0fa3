"""The commands that talk to a running service, with a service. `tests/terminal` has what they print."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from tests.helpers.service import ENDLESS, Service, serving, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("commands")) as service:
        yield service


@pytest.fixture
def unloaded(service: Service) -> Service:
    service.post("/models/unload", {"model": "demo", "force": True})
    return service


def run(service: Service, *words: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, words, input=text, env={"LLAMA_SMART_PROXY_URL": service.url})


def json_of(service: Service, *words: str, text: str | None = None) -> object:
    return json.loads(run(service, *words, "--json", text=text).stdout)


def test_a_model_is_loaded_listed_and_unloaded(unloaded: Service):
    assert "No model is loaded" in run(unloaded, "ps").stdout
    assert run(unloaded, "list").stdout.splitlines()[1].startswith("demo   F16")
    assert run(unloaded, "load", "demo").stdout.startswith("demo is ready on cpu, after ")
    assert "as before" in run(unloaded, "load", "demo").stdout
    assert run(unloaded, "ps").stdout.splitlines()[1].split()[:4] == ["demo", "ready", "cpu", "0/4"]
    assert run(unloaded, "decisions").stdout.splitlines()[-1].split()[1:3] == ["place", "demo"]
    assert run(unloaded, "unload", "demo").stdout == "unloaded demo\n"
    again = run(unloaded, "stop", "demo")
    assert (again.exit_code, again.stdout) == (0, "demo is not loaded\n")


def test_the_log_of_a_model_outlives_its_server_and_is_filtered(unloaded: Service):
    run(unloaded, "load", "demo")
    run(unloaded, "unload", "demo")
    lines = run(unloaded, "logs", "demo").stdout.splitlines()
    assert any(" --- started, pid " in line for line in lines) and " --- " in lines[-1]
    assert run(unloaded, "logs", "demo", "-n", "1").stdout.splitlines() == lines[-1:]
    assert len(run(unloaded, "logs", "demo", "-g", "STARTED, pid", "-n", "9999").stdout.splitlines()) >= 1
    last = json.loads(run(unloaded, "logs", "demo", "--json").stdout.splitlines()[-1])
    assert last["source"] == "demo" and lines[-1].endswith(last["text"])
    own = run(unloaded, "logs").stdout
    assert "unload ordered model=demo" in own and " --- started, pid" not in own
    assert run(unloaded, "logs", "dem").exit_code == 1


def test_a_followed_log_goes_on_and_ends_with_its_reader(unloaded: Service):
    run(unloaded, "load", "demo")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `make test &` ignores it, and programs inherit that
    command = [sys.executable, "-P", "-m", "app.commands.cli", "logs", "-f", "-n", "1", "demo", "--url", unloaded.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follow:
        assert follow.stdout is not None and follow.stdout.readline()
        run(unloaded, "unload", "demo")
        run(unloaded, "load", "demo")
        assert any("--- started, pid" in line for line in follow.stdout)
        follow.send_signal(signal.SIGINT)
        assert follow.wait(20) == 0


def test_a_model_is_pinned_and_unpinned(unloaded: Service):
    pinned = run(unloaded, "pin", "demo").stdout.splitlines()
    assert pinned == [
        "pinned demo until the service restarts",
        "it is not loaded; load it:  llama-smart-proxy load demo",
    ]
    run(unloaded, "load", "demo")
    assert json_of(unloaded, "pin", "demo") == {"model": "demo", "pinned": True}
    assert run(unloaded, "ps").stdout.splitlines()[1].endswith("pinned")
    assert run(unloaded, "unpin", "demo").stdout == "unpinned demo\n"
    assert "pinned" not in run(unloaded, "ps").stdout


def test_all_models_are_unloaded(unloaded: Service):
    assert run(unloaded, "unload", "--all").stdout == "no model is loaded\n"
    run(unloaded, "load", "demo")
    assert json_of(unloaded, "unload", "--all") == {"unloaded": ["demo"]}


def test_a_forced_unload_ends_running_requests(service: Service):
    with service.send_raw({"stream": True, **ENDLESS}) as connection:
        assert connection.recv(100)
        wait_for(lambda: service.servers()[0]["requests"], 20)
        assert run(service, "unload", "demo", "--force").stdout == "unloaded demo\n"


def test_programs_get_one_object(service: Service):
    loaded = json_of(service, "load", "demo")
    assert isinstance(loaded, dict) and (loaded["model"], loaded["device"]) == ("demo", "cpu")
    for words in (["ps"], ["models"], ["show", "demo"], ["decisions"], ["decisions", "demo"]):
        assert isinstance(json_of(service, *words), dict)


def test_a_model_is_shown_in_full(service: Service):
    lines = run(service, "show", "demo").stdout.splitlines()
    assert lines[0] == "demo"
    assert {("can", "chat tools"), ("quantization", "F16")} <= {tuple(line.split(None, 1)) for line in lines[1:]}
    assert lines[-1] == "chat with it:  llama-smart-proxy run demo"


@pytest.mark.parametrize("command", ["load", "unload", "pin", "unpin", "show", "run", "decisions"])
def test_a_mistyped_model_is_answered_with_a_similar_name(service: Service, command: str):
    result = run(service, command, "dmo", text="Hello!")
    assert result.exit_code == 1
    assert result.stderr == "model 'dmo' not found; did you mean demo? `llama-smart-proxy models` lists them\n"


@pytest.mark.parametrize("command", ["load", "show", "run"])
def test_a_model_that_can_be_fetched_is_answered_with_how(service: Service, command: str):
    result = run(service, command, "hf.co/org/tiny-GGUF", text="Hello!")
    assert result.exit_code == 1
    assert result.stderr.endswith("\nfetch it:  llama-smart-proxy pull org/tiny-GGUF\n")


def test_stdout_has_the_answer_alone(service: Service):
    result = run(service, "run", "demo", "--max-tokens", "4", "Hello,", "you!", text="")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.strip()
    assert result.stdout.endswith("\n")


def test_a_pipe_and_the_arguments_are_one_prompt(service: Service):
    def prompt_tokens(*words: str, text: str) -> int:
        answer = json_of(service, "run", "demo", *words, "--max-tokens", "1", text=text)
        assert isinstance(answer, dict) and answer["completion_tokens"] == 1
        return int(answer["prompt_tokens"])

    both = prompt_tokens("with a question", text="A text of several words")
    assert both > prompt_tokens("with a question", text="")
    assert both > prompt_tokens(text="A text of several words")


def test_an_empty_pipe_is_no_question(service: Service):
    result = run(service, "run", "demo", text="")
    assert (result.exit_code, "nothing to ask" in result.stderr) == (2, True)


def test_a_picture_is_for_models_that_see(service: Service):
    result = run(service, "run", "demo", "--image", __file__, "What is it?", text="")
    assert (result.exit_code, "demo does not see pictures" in result.stderr) == (1, True)


def test_an_error_of_the_service_is_the_answer(service: Service):
    result = run(service, "run", "demo", "--max-tokens", "1", "word " * 40_000, text="")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "context" in result.stderr


@pytest.mark.parametrize("words", [["unload"], ["unload", "demo", "--all"], ["run", "demo", "--json"]])
def test_wrong_use_is_status_2(service: Service, words: list[str]):
    assert run(service, *words, text="").exit_code == 2
