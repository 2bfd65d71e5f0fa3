"""`pull` with a service that downloads the model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from tests.helpers.pulling_service import PullingService, pulling
from tests.terminal.test_downloads import NAME, a_download, a_quant

pytestmark = pytest.mark.integration


def pull(service: PullingService, *words: str) -> Result:
    return CliRunner().invoke(main, ["pull", NAME, *words, "--url", service.url])


def test_a_model_is_fetched_by_the_service_and_its_progress_is_printed_in_lines():
    waits = a_download(problem="the server answered 503; trying again in 1 s")
    first = a_download("checking"), a_download(), a_download(), waits
    with pulling(*first, a_download("verifying"), a_download("complete")) as to:
        result = pull(to)
    assert (result.exit_code, result.stdout) == (0, f"{NAME} is downloaded: 8.4 GiB\n")
    assert result.stderr.splitlines() == [
        f"{NAME}: checking its files",
        f"{NAME}: 57 %, 4.8 of 8.4 GiB, 92 MiB/s, 40 s left",  # once: nothing has changed
        f"{NAME}: 57 %, 4.8 of 8.4 GiB, the server answered 503; trying again in 1 s",
        f"{NAME}: verifying the checksums",
    ]
    assert to.orders == [("/models/pull", {"model": NAME, "stream": True})]


def test_a_program_gets_the_download():
    with pulling(a_download("complete")) as to:
        assert json.loads(pull(to, "--json").stdout) == a_download("complete")


def test_a_program_gets_a_failed_download_and_a_person_its_reason():
    """`serve --model` reads the one and leaves the other on the terminal."""
    end = a_download("failed", problem="the repository is gated: accept its licence")
    with pulling(a_download(), end) as to:
        result = pull(to, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, end)
    assert "the repository is gated" in result.stderr


def test_a_name_that_is_none_is_said_before_anything_is_fetched():
    result = CliRunner().invoke(main, ["pull", "llama3.2:3b", "--local"])
    assert (result.exit_code, result.stderr.startswith("'llama3.2:3b' is not a name")) == (2, True)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (a_download("failed", problem="the repository is gated: accept its licence"), "the repository is gated"),
        (a_download("canceled"), "canceled at 4.8 of 8.4 GiB"),
    ],
)
def test_a_download_without_a_model_is_status_1(end: dict[str, object], text: str):
    with pulling(a_download(), end) as to:
        result = pull(to)
    assert (result.exit_code, result.stdout) == (1, "")
    assert text in result.stderr


def test_a_refusal_of_the_service_is_its_error():
    error = {"error": {"message": "needs 391 GiB, and this machine has 47", "code": "model_does_not_fit"}}
    with pulling(a_download(), answer=(422, error)) as to:
        result = pull(to)
    assert (result.exit_code, result.stderr) == (1, "needs 391 GiB, and this machine has 47\n")


def test_a_service_that_stops_says_that_nothing_is_lost():
    with pulling(a_download()) as to:
        result = pull(to)
    assert (result.exit_code, "the partial download is kept" in result.stderr) == (1, True)


def test_a_named_service_that_does_not_let_this_key_is_the_end():
    with pulling(a_download(), may_pull=False) as to:
        result = pull(to)
    assert (result.exit_code, to.orders) == (1, [])
    assert "LLAMA_SMART_PROXY_API_KEY" in result.stderr and "--local" in result.stderr


def test_a_named_service_has_to_answer_and_what_needs_none_is_said():
    """It said to set the variable that was set."""
    result = CliRunner().invoke(main, ["pull", NAME], env={"LLAMA_SMART_PROXY_URL": "http://127.0.0.1:1"})
    assert (result.exit_code, result.stderr) == (
        1,
        "nothing answers at http://127.0.0.1:1: start it with `llama-smart-proxy serve`, or correct --url or "
        "LLAMA_SMART_PROXY_URL; `pull --local` downloads without a service\n",
    )


def test_without_a_named_service_one_that_does_not_let_this_key_is_replaced_by_the_command():
    with pulling(a_download(), may_pull=False) as to:
        env = {"LLAMA_SMART_PROXY_SERVER__PORT": to.url.rpartition(":")[2]}
        env |= {"LLAMA_SMART_PROXY_CATALOG__HUGGING_FACE__CACHE": "off"}
        result = CliRunner().invoke(main, ["pull", NAME], env=env)
    assert "hugging_face.cache is off" in result.stderr
    assert (result.exit_code, to.orders) == (1, [])


def test_a_plan_is_a_table_with_the_next_command():
    body = {"model": "unsloth/Qwen3-14B-GGUF", "quants": [a_quant("Q8_0"), a_quant("Q4_K_M", recommended=True)]}
    with pulling(a_download(), answer=(200, body)) as to:
        lines = pull(to, "--plan").stdout.splitlines()
        assert json.loads(pull(to, "--plan", "--json").stdout) == body
    assert lines[0].split() == ["QUANT", "SIZE", "NEEDS", "CONTEXT", "NOW"]
    assert lines[-1] == f"pull it:  llama-smart-proxy pull {NAME}"
    assert to.orders[0] == ("/models/pull", {"model": NAME, "plan": True})


@pytest.mark.parametrize(
    ("before", "orders", "text"),
    [
        ([], ["/models/pull", "/models/unload"], "stopped at 4.8 of 8.4 GiB; the partial download is kept"),
        ([a_download()], ["/models/pull"], "the service goes on with the download"),  # somebody else ordered it
    ],
)
def test_ctrl_c_stops_what_it_began(before: list[dict[str, object]], orders: list[str], text: str):
    with pulling(a_download(), before=before, hangs=True) as to:
        # A job in the background of a script ignores SIGINT, and so does what it starts.
        python = ["env", "--default-signal=INT", sys.executable, "-P"]
        command = [*python, "-m", "app.commands.cli", "pull", NAME, "--url", to.url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None and "57 %" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert text in process.stderr.read()
            assert process.wait(20) == 130
    assert [path for path, _ in to.orders] == orders
