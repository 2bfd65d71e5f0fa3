"""`top` and `run` in a real terminal (tmux), with a service on fake GPUs."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.gpu_machine import Machine, a_card
from tests.helpers.service import Service, wait_for
from tests.helpers.stand_in_nvml import needs_compiler
from tests.helpers.terminal import terminal
from tests.terminal.status import a_status

pytestmark = [needs_compiler, pytest.mark.integration]


class SlowAnswers(BaseHTTPRequestHandler):
    """A service whose one model says a word each tenth of a second, for as long as the client stays."""

    protocol_version = "HTTP/1.1"
    server: SlowService

    def do_GET(self) -> None:
        status = {"id": "slow", "status": {"value": "loaded"}, "capabilities": ["completion", "chat"]}
        self._answer(a_status() if self.path == "/status" else status, 404 if self.path == "/status/stream" else 200)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.questions.append(body["messages"])
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            self._send({"reasoning_content": "thinking"})
            for number in itertools.count(1):
                self._send({"content": f"word {number} "})
                time.sleep(0.1)
        self.server.disconnected = self.close_connection = True

    def _send(self, delta: dict[str, str]) -> None:
        data = b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _answer(self, body: object, status: int) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class SlowService(ThreadingHTTPServer):
    daemon_threads = True
    disconnected = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SlowAnswers)
        self.questions: list[list[dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def slow_service() -> Iterator[SlowService]:
    with SlowService() as service:
        threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True).start()
        yield service
        service.shutdown()


BACKGROUND = re.compile(r"\x1b\[(\d+;)*4[0-7]m")
CARDS = (
    a_card("GPU-a", 4096, 600, name="NVIDIA GeForce RTX 4090", utilization=63, bus="00000000:01:00.0"),
    a_card("GPU-b", 2048, 0, name="NVIDIA GeForce RTX 3090", bus="00000000:02:00.0"),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    machine = Machine(tmp_path_factory.mktemp("terminal"))
    machine.show(*CARDS)
    with machine.serving(models={"qwen3": {}, "gemma": {}, "phi": {}}) as service:
        yield service


@pytest.fixture
def loaded(service: Service) -> Service:
    """Two models."""
    for name in ("qwen3", "gemma"):
        service.chat(name)
    service.post("/models/unload", {"model": "phi"})
    return service


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 60), (60, 10)])
def test_top_fills_the_terminal(loaded: Service, tmp_path: Path, columns: int, lines: int):
    with terminal(tmp_path, loaded.url, "top", columns=columns, lines=lines) as top:
        screen = top.shows("GPU 0 RTX 4090 [", "GPU 1 RTX 3090 [qwe", "q quit", "ready")
        assert len(screen.rstrip("\n").splitlines()) == lines
        assert ("41 °C   22 W" in screen) == (columns >= 80)


@pytest.mark.parametrize("key", ["q", "C-c"])
def test_top_leaves_the_terminal_as_it_was(loaded: Service, tmp_path: Path, key: str):
    with terminal(tmp_path, loaded.url, "top") as top:
        top.shows("q quit")
        assert top.is_alternate
        top.press(key)
        assert top.ends() == 0
        assert not top.is_alternate
        assert top.has_cursor
        assert not {"-echo", "-icanon"} & set(top.modes.split())
        assert top.screen.strip() == ""


def test_top_shows_a_load_and_unloads_what_is_selected(loaded: Service, tmp_path: Path):
    with terminal(tmp_path, loaded.url, "top") as top:
        top.shows("qwen3", "gemma", "63 %")
        loaded.chat("phi")
        top.shows("phi  ", "phi on GPU")
        top.press("Down", "Down", "Up", "u")  # in one piece
        top.shows("unload gemma? y/n")
        top.press("n")
        top.hides("unload gemma?")
        top.press("u")
        top.shows("unload gemma? y/n")
        top.press("y")
        top.shows("unloaded gemma")
        wait_for(lambda: {server["model_id"] for server in loaded.servers()} == {"qwen3", "phi"}, 20)
        top.press("C-c")
        assert top.ends() == 0


def test_top_follows_a_change_of_size(loaded: Service, tmp_path: Path):
    with terminal(tmp_path, loaded.url, "top") as top:
        top.shows("q quit")
        for columns, lines in ((200, 50), (60, 10)):
            top.resize(columns, lines)
            wait_for(lambda lines=lines: "q quit" in top.screen.splitlines()[lines - 1], 20, lambda: top.screen)
            assert max(map(len, top.screen.splitlines())) <= columns


def test_top_comes_back_from_a_log(loaded: Service, tmp_path: Path):
    with terminal(tmp_path, loaded.url, "top") as top:
        top.shows("q quit")
        top.press("l")
        top.shows(" I srv ")  # lines of llama-server
        top.press("C-c")
        top.shows("q quit", "GPU 0")
        top.press("Down")
        top.press("q")
        assert top.ends() == 0


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_top_without_colour_uses_characters(loaded: Service, tmp_path: Path, variable: str):
    values = {"NO_COLOR": "1", "TERM": "dumb"}
    with terminal(tmp_path, loaded.url, "top", **{variable: values[variable]}) as top:
        top.shows("[qwen3#")
        assert not BACKGROUND.search(top.colored_screen)
        if variable == "TERM":  # nothing can be drawn there: printed once
            assert top.ends() == 0
            assert "q quit" not in top.screen


def test_top_has_colours_in_a_terminal(loaded: Service, tmp_path: Path):
    with terminal(tmp_path, loaded.url, "top") as top:
        top.shows("[qwen3")
        assert "\x1b[44mqwen3" in top.colored_screen.replace("\x1b[37m", "").replace("\x1b[37;44m", "\x1b[44m")


def test_top_without_a_stream_polls(tmp_path: Path):
    with slow_service() as service, terminal(tmp_path, service.url, "top") as top:
        top.shows("No model is loaded.", "q quit")


def test_top_says_when_the_service_is_gone_and_goes_on_when_it_is_back(tmp_path: Path):
    machine = Machine(tmp_path / "machine")
    machine.show(*CARDS)
    with machine.serving(models={"qwen3": {}}) as first, contextlib.ExitStack() as until_the_end:
        first.chat("qwen3")
        url, port = first.url, first.url.rpartition(":")[2]
        top = until_the_end.enter_context(terminal(tmp_path, url, "top", columns=100))
        top.shows("qwen3", "q quit")
        ended = until_the_end.pop_all()
    with ended:
        top.shows(f"old: nothing answers at {url}: start it with `llama-smart-proxy serve`", "GPU 0")
        with machine.serving("--port", port, models={"qwen3": {}}):
            top.hides("old: ")
            top.shows("No model is loaded.", "q quit")
            top.press("q")
            assert top.ends() == 0


def test_run_streams_and_says_what_it_took(loaded: Service, tmp_path: Path):
    loaded.post("/models/unload", {"model": "phi"})
    with terminal(tmp_path, loaded.url, "run", "phi", "--max-tokens", "8", "Hello!") as run:
        assert run.ends() == 0
        assert "8 tokens, " in run.screen or "tokens/s, first after" in run.screen
        assert "s of it loading)" in run.screen


def test_a_conversation_goes_on_after_an_answer_is_stopped(loaded: Service, tmp_path: Path):
    with terminal(tmp_path, loaded.url, "run", "qwen3") as chat:
        chat.shows("4k of context; /? for help", ">>>")
        chat.press("/?", "Enter")
        chat.shows("/clear   forget the conversation")
        chat.press("/nosuch", "Enter")
        chat.shows("no such command: /nosuch")
        chat.press("Hello!", "Enter")
        chat.shows("tokens/s, first after")
        chat.press("C-c")
        chat.shows("Ctrl-D or /bye ends the conversation")
        chat.press('"""one', "Enter")
        chat.shows("...")
        chat.press('two"""', "Enter")
        wait_for(lambda: chat.screen.count("tokens/s, first after") == 2, 20, lambda: chat.screen)
        chat.press("/clear", "Enter")
        chat.shows("forgotten")
        chat.press("/bye", "Enter")
        assert chat.ends() == 0


def test_ctrl_c_stops_an_answer_and_not_the_conversation(tmp_path: Path):
    with slow_service() as service, terminal(tmp_path, service.url, "run", "slow") as chat:
        chat.shows(">>>")
        chat.press("Hello!", "Enter")
        chat.shows("word 3 ")
        chat.press("C-c")
        chat.shows("stopped")
        wait_for(lambda: service.disconnected, 20)
        chat.press("And?", "Enter")
        wait_for(lambda: chat.screen.count("word 3 ") == 2, 20, lambda: chat.screen)
        _, second = service.questions
        assert [message["role"] for message in second] == ["user", "assistant", "user"]
        assert second[1]["content"].startswith("word 1 word 2 word 3 ")
        chat.press("C-c")
        chat.press("C-d")
        assert chat.ends() == 0


def test_ctrl_c_ends_a_single_answer(tmp_path: Path):
    with slow_service() as service, terminal(tmp_path, service.url, "run", "slow", "Hello!") as run:
        run.shows("word 3 ")
        run.press("C-c")
        assert run.ends() == 130
        assert "Traceback" not in run.screen


def test_reasoning_is_dimmed_and_not_part_of_the_answer(tmp_path: Path):
    with slow_service() as service:
        with terminal(tmp_path, service.url, "run", "slow", "Hello!") as run:
            run.shows("thinking", "word 3")
            assert "\x1b[2mthinking" in run.colored_screen
        (tmp_path / "piped").mkdir()
        shell = "PROGRAM run slow Hello! </dev/null | head -c 20"
        with terminal(tmp_path / "piped", service.url, shell=shell) as run:
            assert run.ends() == 0
            assert run.screen.startswith("word 1 word 2 word 3")


def test_a_load_is_shown_only_on_a_terminal(loaded: Service, tmp_path: Path):
    loaded.post("/models/unload", {"model": "phi"})
    with terminal(tmp_path, loaded.url, shell="PROGRAM load phi 2>/dev/null | cat; PROGRAM ps | cat") as run:
        assert run.ends() == 0
        assert "phi is ready on cuda:" in run.screen


@pytest.mark.parametrize(("command", "column"), [("ps", "UNLOADS"), ("models", "QUANT")])
def test_a_narrow_terminal_gets_fewer_columns_and_a_pipe_all_of_them(
    loaded: Service, tmp_path: Path, command: str, column: str
):
    with terminal(tmp_path, loaded.url, shell=f"PROGRAM {command}; PROGRAM {command} | tee out", columns=40) as narrow:
        assert narrow.ends() == 0
        on_the_terminal, _, _ = narrow.screen.partition(column)
        assert "qwen3" in on_the_terminal
        assert "…" not in on_the_terminal
        assert column in (tmp_path / "out").read_text().splitlines()[0]


def test_top_in_a_pipe_cuts_no_line(loaded: Service, tmp_path: Path):
    loaded.post("/v1/chat/completions", {"model": "no-such-model"})
    with terminal(tmp_path, loaded.url, shell="PROGRAM top | tee out", columns=50) as top:
        assert top.ends() == 0
        printed = (tmp_path / "out").read_text()
    assert "UNLOADS" in printed
    assert "\x1b" not in printed
    assert "…" not in printed
