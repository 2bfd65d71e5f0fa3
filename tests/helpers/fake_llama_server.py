#!/usr/bin/env python3
"""A scripted llama-server, for faults that a real one does not show on demand.

It accepts llama-server's command line and prints the --help and --version of a build of mid 2024. Like a real one it
closes the connection after each stream, a little late, although it has announced keep-alive. Its behaviour is set
by FAKE_* variables, or by the same names in a JSON file next to it (`<argv[0]>.json`), because the environment of an
engine is built from an allow-list. `install_fake(folder, FAKE_LOAD="hang")` writes such a pair.

FAKE_LOAD_SECONDS=1.5     duration of the load           FAKE_LOAD=hang|exit1|oom|segv   how the load fails
FAKE_READS=1              reads its model during the load, and logs nothing
FAKE_PROGRESS=0.6         reports this load progress (above 0.5) in llama.cpp's protocol
FAKE_OOM_ONCE=FILE        as FAKE_LOAD=oom unless FILE exists; creates it
FAKE_STREAM_TOKENS=20     tokens per answer              FAKE_TOKEN_DELAY_SECONDS=0.01   between two tokens
FAKE_DIE_AFTER_TOKENS=5   exits in mid-stream            FAKE_TRUNCATE=1                 closes in mid-stream
FAKE_DIE_ON=TEXT          ends by SIGSEGV when a request contains this text
FAKE_FIRST_BYTE_SECONDS=5 delay before the answer        FAKE_STATUS=500                 answers with this error
FAKE_GROW_MB=600          takes this much memory for a prompt "grow"
FAKE_GARBAGE=1            answers with invalid HTTP      FAKE_NO_BIND=1                  never listens
FAKE_IGNORE_TERM=1        ignores SIGTERM                FAKE_FORK_GRANDCHILD=1          a child keeps its pipes open
FAKE_WAITS_FOR_ORDER=1    after SIGTERM, exits only on a router's command on stdin
FAKE_STDERR_MB=50         logs this much before the load FAKE_IGNORE_KEY=1               does not require the key
FAKE_DEAF=1               does not notice disconnected clients
FAKE_CUT_EVENT=1          closes in the middle of an event
FAKE_BAD_HEADER=1         sends headers that must not be forwarded; FAKE_BAD_HEADER_NAME=1: an invalid header name
FAKE_REFUSE_UNREAD=1      answers a POST with 413 and closes, without reading the body
FAKE_ECHO=1               answers with the request it received
FAKE_ANSWERS=FOLDER       answers ?say=NAME with the bytes of FOLDER/NAME and stores the request in FOLDER/NAME.seen;
                          ?parts=A,B: sends the bytes up to A and up to B separately; ?then=close|reset|hold: what
                          happens to the connection afterwards
FAKE_SLOTS_SECONDS=0.8    duration of /slots
FAKE_SAVE=ok|hang|501     accepts --slot-save-path and has a slot with 100 tokens; the result of saving it
FAKE_SAVE_BYTES=5000      size of the saved file         FAKE_RESTORE=ok|hang|die|400    the result of restoring it
FAKE_BREAKDOWN=900,90,9   accepts -fit and --log-jsonl, and logs before the load how many MiB of RAM it needs for the
                          weights, the context and the graph
FAKE_DEVICES=CUDA0,CUDA1  accepts --list-devices and lists these; empty: none
FAKE_CARDS=GPU-a,GPU-b    accepts --list-devices; the GPUs that CUDA can use, limited by CUDA_VISIBLE_DEVICES as CUDA
                          does; without one it computes on the CPU and says so
FAKE_VULKAN=A:8192,B:8192 accepts --list-devices; what Vulkan enumerates: name and MiB. GGML_VK_VISIBLE_DEVICES limits
                          it as in llama.cpp, or fails with FAKE_VULKAN_FAILS=1; without it, those of a CPU (llvmpipe)
                          are not listed
FAKE_CRASHES_ON=none,CUDA0  ends by SIGSEGV in a load with this --device ("none": the CPU)
FAKE_CUDA_INIT=TEXT       why CUDA can use none          FAKE_BAD_CARDS=GPU-a  loads on these end with a CUDA error
FAKE_PORT_ZERO=1          accepts --port 0, as newer builds do
FAKE_BINDS_AFTER=FILE     writes its port to FILE, and binds it once FILE.taken exists or FILE existed before
FAKE_JOURNAL=FILE         appends "<monotonic seconds> <event>": start PID, bind PORT, weights, request PATH,
                          closed PATH, said NAME
"""

from __future__ import annotations

import hmac
import io
import itertools
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

HELP = """\
usage: {name} [options]

general:

  -h,    --help, --usage          print usage and exit
         --version                show version and build info
  -m,    --model FNAME            model path (default: models/$filename with filename from --hf-file)
  -t,    --threads N              number of threads to use during generation (default: 2)
  -c,    --ctx-size N             size of the prompt context (default: 0, 0 = loaded from model)
  -b,    --batch-size N           logical maximum batch size (default: 2048)
  -ub,   --ubatch-size N          physical maximum batch size (default: 512)
  -np,   --parallel N             number of parallel sequences to decode (default: 1)
  -fa,   --flash-attn             enable Flash Attention (default: disabled)
  -ctk,  --cache-type-k TYPE      KV cache data type for K (default: f16)
  -ctv,  --cache-type-v TYPE      KV cache data type for V (default: f16)
  -ngl,  --gpu-layers N           number of layers to store in VRAM
  -sm,   --split-mode SPLIT_MODE  how to split the model across multiple GPUs, one of:
                                    - none: use one GPU only
  -ts,   --tensor-split SPLIT     fraction of the model to offload to each GPU, e.g. 3,1
  -mg,   --main-gpu i             the GPU to use for the model (with split-mode = none)
         --no-mmap                do not memory-map model
         --host HOST              ip address to listen (default: 127.0.0.1)
         --port PORT              port to listen (default: 8080)
         --embedding(s)           restrict to only support embedding use case
         --pooling {{none,mean,cls,last}}
                                  pooling type for embeddings, use model default if unspecified
  -a,    --alias STRING           set alias for model name (to be used by REST API)
         --metrics                enable prometheus compatible metrics endpoint
         --slots                  enable slots monitoring endpoint
         --log-disable            disables logging to a file
"""
HELP_ASKED = """\
  -fit,  --fit [on|off]           whether to adjust unset arguments to fit in device memory
  -lv,   --verbosity N            set the verbosity threshold
         --log-jsonl              log as JSONL
"""
HELP_SAVE = """\
         --slot-save-path PATH    path to save slot kv cache (default: disabled)
"""
HELP_DEVICES = """\
         --list-devices           print list of available devices and exit
"""
LISTING = {"FAKE_DEVICES", "FAKE_CARDS", "FAKE_VULKAN"}
VERSION = "version: 3091 (fake)\nbuilt with nothing for x86_64-linux-gnu\n"
SWITCHES = {"--no-mmap", "--embedding", "--embeddings", "--metrics", "--slots", "--log-disable", "-fa", "--flash-attn",
            "--log-jsonl"}  # fmt: skip
VALUES = {"-m", "--model", "-t", "--threads", "-c", "--ctx-size", "-b", "--batch-size", "-ub", "--ubatch-size",
          "-np", "--parallel", "-ctk", "--cache-type-k", "-ctv", "--cache-type-v", "-ngl", "--gpu-layers",
          "--n-gpu-layers", "-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu", "--host", "--port",
          "--pooling", "--slot-save-path", "-a", "--alias", "-fit", "-lv", "--device"}  # fmt: skip


def install_fake(folder: Path, **settings: object) -> Path:
    """Write an executable `llama-server` with these settings into `folder`: install_fake(tmp_path, FAKE_STATUS=500)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llama-server"
    source = Path(__file__).read_text()
    # The tests' own interpreter: "python3" on PATH may be another. It needs no packages, whose search takes a while.
    path.write_text(f"#!{sys.executable} -IS\n" + source.split("\n", 1)[1])
    path.chmod(0o755)
    Path(f"{path}.json").write_text(json.dumps(settings))
    return path


def _settings() -> dict[str, str]:
    settings_file = Path(f"{shutil.which(sys.argv[0]) or sys.argv[0]}.json")
    configured = json.loads(settings_file.read_text()) if settings_file.exists() else {}
    given = {name: value for name, value in os.environ.items() if name.startswith("FAKE_")}
    return {**{name: str(value) for name, value in configured.items()}, **given}


MAX_CLOSING_SECONDS = 0.005  # after a stream

SETTINGS = _settings() if __name__ == "__main__" else {}
loaded = threading.Event()
journal_lock = threading.Lock()


def number(name: str, default: float = 0.0) -> float:
    return float(SETTINGS.get(name, default))


def is_on(name: str) -> bool:
    return SETTINGS.get(name, "0") not in ("", "0", "False")


def log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def journal(event: str) -> None:
    if "FAKE_JOURNAL" in SETTINGS:
        with journal_lock, open(SETTINGS["FAKE_JOURNAL"], "a") as file:
            file.write(f"{time.monotonic():.6f} {event}\n")


def parse(arguments: list[str]) -> dict[str, str]:
    chosen = {}
    rest = iter(arguments)
    for name in rest:
        if name not in SWITCHES | VALUES:
            log(f"error: unknown argument: {name}")
            sys.exit(1)
        chosen[name.lstrip("-")] = next(rest) if name in VALUES else "on"
    return chosen


class RecordedInput(io.RawIOBase):
    """Reads a connection and keeps a copy of the received bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.bytes = bytearray()

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:
        size = self.connection.recv_into(into)
        self.bytes += into[:size]
        return size


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Keep-Alive", "timeout=5, max=100")
        super().end_headers()

    def setup(self) -> None:
        super().setup()
        if "FAKE_ANSWERS" in SETTINGS:
            self.recorded = RecordedInput(self.connection)
            self.rfile = io.BufferedReader(self.recorded)

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if "FAKE_ANSWERS" in SETTINGS:
            self.recorded.bytes.clear()

    def do_GET(self) -> None:
        if self.path in ("/health", "/v1/health"):
            return self.answer(200, {"status": "ok"}) if loaded.is_set() else self.loading()
        if self.path == "/v1/models":  # public in builds up to mid 2026
            return self.answer(200, {"object": "list", "data": [{"id": self.server.alias, "object": "model"}]})
        if self.refused():
            return None
        if name := self.option("say"):
            return self.say(name)
        if is_on("FAKE_ECHO"):
            return self.echo(b"")
        if self.path == "/props":
            return self.answer(200, {"total_slots": 1})
        if self.path == "/slots":
            time.sleep(number("FAKE_SLOTS_SECONDS"))
            busy = [{"is_processing": True} for _ in range(self.server.generating)]
            held = {"id": 0, "is_processing": False, "id_task": 0, "n_prompt_tokens": 100}
            return self.answer(200, [*busy, held] if "FAKE_SAVE" in SETTINGS else busy)
        return self.answer(404, error(404, "File Not Found", "not_found_error"))

    def do_POST(self) -> None:
        if is_on("FAKE_REFUSE_UNREAD"):
            self.answer(413, error(413, "too large for me", "invalid_request_error"))
            self.wfile.flush()
            time.sleep(0.5)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        journal(f"request {self.path}")
        if (text := SETTINGS.get("FAKE_DIE_ON", "")) and text.encode() in body:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.refused():
            return
        if name := self.option("say"):
            self.say(name)
        elif "FAKE_SAVE" in SETTINGS and self.path.startswith("/slots/"):
            self.save_or_restore(json.loads(body)["filename"])
        elif is_on("FAKE_ECHO"):
            self.echo(body)
        elif is_on("FAKE_GARBAGE"):
            self.close_connection = True
            self.wfile.write(b"\x00\x01 this is not HTTP\r\n\r\n")
        elif not self.silence(number("FAKE_FIRST_BYTE_SECONDS")):
            journal(f"closed {self.path}")
            self.close_connection = True
        elif "FAKE_STATUS" in SETTINGS:
            status = int(SETTINGS["FAKE_STATUS"])
            self.answer(status, error(status, "told to fail", "server_error"))
        else:
            self.generate(json.loads(body or b"{}"))

    do_PUT = do_PATCH = do_DELETE = do_POST
    do_HEAD = do_GET

    def option(self, name: str) -> str:
        """A query parameter of the request, if FAKE_ANSWERS is set."""
        query = parse_qs(urlsplit(self.path).query) if "FAKE_ANSWERS" in SETTINGS else {}
        return query.get(name, [""])[0]

    def say(self, name: str) -> None:
        folder = Path(SETTINGS["FAKE_ANSWERS"])
        (folder / f"{name}.seen").write_bytes(self.recorded.bytes)
        journal(f"said {name}")
        data, at = (folder / name).read_bytes(), 0
        for end in map(int, filter(None, self.option("parts").split(","))):
            self.wfile.write(data[at:end])
            at = end
            while not is_read(self.connection):
                time.sleep(0.001)
            time.sleep(0.01)
        self.wfile.write(data[at:])
        match self.option("then"):
            case "close":
                self.close_connection = True
            case "reset":
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            case "hold":
                self.silence(60)
                self.close_connection = True

    def save_or_restore(self, name: str) -> None:
        """Save or restore slot 0, with the configured result."""
        saves = self.path.endswith("=save")
        match SETTINGS.get("FAKE_SAVE" if saves else "FAKE_RESTORE", "ok"):
            case "hang":
                threading.Event().wait()
            case "die":
                os._exit(1)
            case "ok":
                file = Path(self.server.slots_folder) / name
                if saves:
                    file.write_bytes(bytes(int(number("FAKE_SAVE_BYTES", 5000))))
                done = ("n_saved", "n_written") if saves else ("n_restored", "n_read")
                self.answer(200, {"id_slot": 0, done[0]: 100, done[1]: file.stat().st_size})
            case status:
                self.answer(int(status), error(int(status), "told to fail", "not_supported_error"))

    def echo(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        sent = {"method": self.command, "path": self.path, "headers": headers, "body": body.decode("latin-1")}
        self.answer(200, sent)

    def refused(self) -> bool:
        key = "" if is_on("FAKE_IGNORE_KEY") else os.environ.get("LLAMA_API_KEY", "")
        given = self.headers.get("Authorization", "")
        if key and not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
            self.answer(401, error(401, "Invalid API Key", "authentication_error"))
            return True
        if not loaded.is_set():
            self.loading()
            return True
        return False

    def loading(self) -> None:
        self.answer(503, error(503, "Loading model", "unavailable_error"))

    def silence(self, seconds: float) -> bool:
        """Wait; False as soon as the client has disconnected."""
        until = time.monotonic() + seconds
        if is_on("FAKE_DEAF"):
            time.sleep(seconds)
        while (left := until - time.monotonic()) > 0:
            if select.select([self.connection], [], [], left)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                return False
        return True

    def answer(self, status: int, content: object) -> None:
        log(f"request: {self.command} {self.path} 127.0.0.1 {status}")  # as builds do
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if is_on("FAKE_BAD_HEADER_NAME"):
            self.send_header("not a name", "1")
        if is_on("FAKE_BAD_HEADER"):
            self.send_header("X-Control", "a\x01b")
            self.send_header("Set-Cookie", "a=b")
            self.send_header("X-Llama-Smart-Proxy-Error", "1")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_on("FAKE_TRUNCATE") and self.command == "POST" else body)
        self.close_connection |= is_on("FAKE_TRUNCATE")

    def generate(self, request: dict[str, object]) -> None:
        if "input" in request:
            vector = {"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}
            return self.answer(200, {"object": "list", "data": [vector], "usage": {"prompt_tokens": 1}})
        if request.get("prompt") == "grow":
            self.server.grown.append(b"x" * int(number("FAKE_GROW_MB") * 2**20))
        self.server.generating += 1
        try:
            self.stream() if request.get("stream") else self.whole()
        except OSError:
            journal(f"closed {self.path}")
            self.close_connection = True
        finally:
            self.server.generating -= 1
        if request.get("stream") and not self.close_connection:
            time.sleep(random.uniform(0, MAX_CLOSING_SECONDS))
            self.close_connection = True
        return None

    def tokens(self) -> range:
        return range(int(number("FAKE_STREAM_TOKENS", 20)))

    def step(self, index: int) -> None:
        """Wait for one token's time, and exit if it is the last one. Raises OSError if the client has disconnected."""
        if "FAKE_DIE_AFTER_TOKENS" in SETTINGS and index >= number("FAKE_DIE_AFTER_TOKENS"):
            log("CUDA error: out of memory")
            os._exit(1)
        if not self.silence(number("FAKE_TOKEN_DELAY_SECONDS", 0.01)):
            raise ConnectionResetError

    def whole(self) -> None:
        for index in self.tokens():
            self.step(index)
        text = " word" * len(self.tokens())
        choice = {"index": 0, "text": text, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": len(self.tokens()), "total_tokens": len(self.tokens()) + 1}
        self.answer(200, {**self.envelope(), "choices": [choice], "usage": usage})

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for index in self.tokens():
            self.step(index)
            choice = {"index": 0, "text": " word", "delta": {"content": " word"}, "finish_reason": None}
            self.chunk(f"data: {json.dumps({**self.envelope(), 'choices': [choice]})}\n\n")
            if is_on("FAKE_CUT_EVENT"):
                self.chunk('data: {"choices": [{"delt')
                self.close_connection = True
                return
            if is_on("FAKE_TRUNCATE") and index >= len(self.tokens()) // 2:
                self.close_connection = True
                return
        last = {"index": 0, "text": "", "delta": {}, "finish_reason": "stop"}
        self.chunk(f"data: {json.dumps({**self.envelope(), 'choices': [last]})}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def envelope(self) -> dict[str, object]:
        kind = "chat.completion" if "chat" in self.path else "text_completion"
        return {"id": "fake", "object": kind, "created": int(time.time()), "model": self.server.alias}

    def chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    alias = ""
    slots_folder = ""
    generating = 0
    grown: ClassVar[list[bytes]] = []

    def handle_error(self, *_: object) -> None:
        pass  # disconnecting clients are expected


def is_read(connection: socket.socket) -> bool:
    """Whether the peer, on this machine, has read all bytes that it was sent: what follows comes by itself then."""
    peer, own = (f"0100007F:{port:04X}" for _, port in (connection.getpeername(), connection.getsockname()))
    row = next((line for line in Path("/proc/net/tcp").read_text().splitlines() if f" {peer} {own} " in line), "")
    return not row or row.split()[4].endswith(":00000000")  # its tx_queue:rx_queue


def error(code: int, message: str, kind: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "type": kind}}


def listen(chosen: dict[str, str]) -> None:
    port = int(chosen.get("port", "8080"))
    if port == 0 and not is_on("FAKE_PORT_ZERO"):
        log("couldn't bind to server socket: hostname=127.0.0.1 port=0")  # builds before `--port 0`
        sys.exit(1)
    if "FAKE_BINDS_AFTER" in SETTINGS:
        announce(port, Path(SETTINGS["FAKE_BINDS_AFTER"]))
    try:
        server = Server((chosen.get("host", "127.0.0.1"), port), Handler)
    except OSError:
        log(f"couldn't bind HTTP server socket, hostname: {chosen.get('host')}, port: {port}")
        sys.exit(1)
    server.alias = chosen.get("alias") or chosen.get("a") or chosen.get("model") or chosen.get("m") or ""
    server.slots_folder = chosen.get("slot-save-path", "")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    journal(f"bind {server.server_port}")
    log(f"main: HTTP server is listening, hostname: 127.0.0.1, port: {server.server_port}, http threads: 8")


def announce(port: int, file: Path) -> None:
    """Let somebody take the port first."""
    if not file.exists():
        file.write_text(str(port))
        until = time.monotonic() + 5
        while not Path(f"{file}.taken").exists() and time.monotonic() < until:
            time.sleep(0.01)


def load(chosen: dict[str, str]) -> None:
    """Load for the configured time, then fail as configured or mark the model as loaded."""
    log("main: loading model")
    log(f"llama_model_loader: loaded meta data from {chosen.get('model') or chosen.get('m')}")
    flood(number("FAKE_STDERR_MB"))
    tell_need()
    model = open(chosen.get("model") or chosen["m"], "rb")  # noqa: SIM115 - until the process ends
    until = time.monotonic() + number("FAKE_LOAD_SECONDS")
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))
        if is_on("FAKE_READS"):
            model.read(2 * 1024**2)
            continue
        log(".")  # progress, if slow
        if share := number("FAKE_PROGRESS"):
            payload = {"stages": ["text_model", "mmproj_model"], "current": "mmproj_model", "value": 2 * share - 1}
            log("cmd_child_to_router:state:" + json.dumps({"state": "loading", "payload": payload}))
    crashes = chosen.get("device") in SETTINGS.get("FAKE_CRASHES_ON", "").split(",")
    match "oom" if is_first() else "segv" if crashes else SETTINGS.get("FAKE_LOAD", ""):
        case "hang":
            threading.Event().wait()
        case "exit1":
            log("llama_model_load: error loading model: unknown model architecture: 'fake'")
            os._exit(1)
        case "oom":
            log(
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 852.89 MiB on device 0: cudaMalloc failed:"
                " out of memory"
            )
            log("alloc_tensor_range: failed to allocate CUDA0 buffer of size 894320640")
            log("llama_model_load: error loading model: unable to allocate CUDA0 buffer")
            log("llama_model_load_from_file_impl: failed to load model")
            os._exit(1)
        case "segv":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
    fail_on_bad_card()
    journal("weights")
    tell_buffers()
    log("main: model loaded")
    loaded.set()


def is_first() -> bool:
    """Whether FAKE_OOM_ONCE still has to fail a load."""
    try:
        open(SETTINGS["FAKE_OOM_ONCE"], "x").close()
    except (KeyError, FileExistsError):
        return False
    return True


def breakdown() -> tuple[int, ...]:
    return tuple(map(int, SETTINGS.get("FAKE_BREAKDOWN", "").split(","))) if "FAKE_BREAKDOWN" in SETTINGS else ()


def tell_need() -> None:
    """Log as b11434 does with -fit on and --log-jsonl, before it loads."""
    if not breakdown():
        return
    model, context, compute = breakdown()
    row = {"kind": "host", "name": "Host", "self": sum(breakdown())}
    row |= {"model": model, "context": context, "compute": compute}
    log(json.dumps({"type": "fit_memory_breakdown", "data": {"unit": "MiB", "rows": [row]}}))


def tell_buffers() -> None:
    if not breakdown():
        if "FAKE_VULKAN" in SETTINGS and vulkan_devices():
            return log("load_tensors:      Vulkan0 model buffer size =   852.89 MiB")
        name = "CUDA0" if "FAKE_CARDS" not in SETTINGS or visible_cards() else "CPU_Mapped"
        return log(f"load_tensors: {name:>12} model buffer size =   852.89 MiB")
    lines = ("load_tensors: CPU_Mapped model", "llama_kv_cache: CPU KV", "sched_reserve: CPU compute")
    for line, mib in zip(lines, breakdown(), strict=True):
        message = f"{line} buffer size = {mib:.2f} MiB\n"
        log(json.dumps({"type": "log", "level": "INFO", "msg": message}))
    return None


def flood(megabytes: float) -> None:
    line = ("x" * 1023 + "\n") * 64
    for _ in range(int(megabytes * 16)):
        sys.stderr.write(line)


def visible_cards() -> list[str]:
    """The GPUs of FAKE_CARDS that CUDA finds: the list in CUDA_VISIBLE_DEVICES ends at the first that it does not."""
    present = [uuid for uuid in SETTINGS["FAKE_CARDS"].split(",") if uuid and "FAKE_CUDA_INIT" not in SETTINGS]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return present
    return list(itertools.takewhile(lambda uuid: uuid in present, named.split(",")))


def tell_no_gpu() -> None:
    """As b11434 does: the first line when CUDA is initialized, the second for --n-gpu-layers."""
    if "FAKE_CARDS" in SETTINGS and not visible_cards():
        why = SETTINGS.get("FAKE_CUDA_INIT", "no CUDA-capable device is detected")
        log(f"ggml_cuda_init: failed to initialize CUDA: {why}")
        log("warning: no usable GPU found, --gpu-layers option will be ignored")


def fail_on_bad_card() -> None:
    """As ggml_cuda_error does."""
    for device, uuid in enumerate(visible_cards() if "FAKE_BAD_CARDS" in SETTINGS else ()):
        if uuid in SETTINGS["FAKE_BAD_CARDS"].split(","):
            log("CUDA error: no kernel image is available for execution on the device")
            log(f"  current device: {device}, in function ggml_cuda_compute_forward at /src/ggml-cuda.cu:2429")
            log("  err")
            log("/src/ggml-cuda.cu:97: CUDA error")
            os.abort()


def vulkan_devices() -> list[str]:
    """Those of FAKE_VULKAN that are visible; none if a number does not exist, as ggml_vk_instance_init."""
    present = SETTINGS["FAKE_VULKAN"].split(",")
    named = os.environ.get("GGML_VK_VISIBLE_DEVICES")
    if named is None:
        return [each for each in present if "llvmpipe" not in each]
    numbers = [int(number) for number in named.split(",") if number]
    if any(number >= len(present) for number in numbers) or "FAKE_VULKAN_FAILS" in SETTINGS:
        log("ggml_vulkan: Invalid device index in GGML_VK_VISIBLE_DEVICES.")
        return []
    return [present[number] for number in numbers]


def list_devices() -> None:
    """Print as b11434 does, preceded by the CUDA backend's messages."""
    if "FAKE_VULKAN" in SETTINGS:
        rows = (each.split(":") for each in vulkan_devices())
        vulkan = (f"  Vulkan{n}: {name} ({mib} MiB, {mib} MiB free)" for n, (name, mib) in enumerate(rows))
        print("Available devices:", *vulkan, sep="\n")
        return
    if "FAKE_CARDS" in SETTINGS:
        tell_no_gpu()
        names = [f"CUDA{number}" for number in range(len(visible_cards()))]
    else:
        names = SETTINGS["FAKE_DEVICES"].split(",") if SETTINGS["FAKE_DEVICES"] else []
    log(f"ggml_cuda_init: found {len(names)} CUDA devices:")
    for name in names:
        log(f"  Device {name[-1]}: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes")
    lines = (f"  {name}: NVIDIA GeForce RTX 4090 (24080 MiB, 23500 MiB free)" for name in names)
    print("Available devices:", *lines, sep="\n")


def main() -> None:
    if {"-h", "--help", "--usage"} & set(sys.argv[1:]):
        more = HELP_DEVICES if LISTING & SETTINGS.keys() else ""
        more += HELP_SAVE if "FAKE_SAVE" in SETTINGS else ""
        print(HELP.format(name=sys.argv[0]), end=more + (HELP_ASKED if breakdown() else ""))
        sys.exit(1)  # as some builds did
    if "--version" in sys.argv[1:]:
        sys.stderr.write(VERSION)
        sys.exit(0)
    if "--list-devices" in sys.argv[1:] and LISTING & SETTINGS.keys():
        list_devices()
        sys.exit(0)
    chosen = parse(sys.argv[1:])
    tell_no_gpu()
    journal(f"start {os.getpid()}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_on("FAKE_IGNORE_TERM") else signal.SIG_DFL)
    if is_on("FAKE_WAITS_FOR_ORDER"):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(sys.stdin.readline() != "cmd_router_to_child:exit\n"))
    if is_on("FAKE_FORK_GRANDCHILD"):
        # Exits eventually, so that a failing test leaves no process behind.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        journal(f"grandchild {child.pid}")
    if not is_on("FAKE_NO_BIND"):
        listen(chosen)
    load(chosen)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
