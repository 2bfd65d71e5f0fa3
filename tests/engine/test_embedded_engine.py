"""The embedded engine as a process: llama-server's command line, llama.cpp's answers."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from app.ports import Address
from tests.helpers.tiny_models import write_adapter
from workers.catalog.demo_model import write_demo_model
from workers.engine import embedded_engine
from workers.engine_metrics.exposition import engine_metrics
from workers.engine_metrics.fetch import fetch
from workers.measurement.memory_report import EngineReport

SCRIPT = Path(__file__).parents[2] / "workers" / "engine" / "embedded_engine.py"
DEADLINE_SECONDS = 30.0  # it is ready in about 0.15 s
KEY = "secret"


def spawn(*arguments: str, **options) -> subprocess.Popen:
    environment = {"PATH": os.environ["PATH"], "LLAMA_API_KEY": KEY, **options.pop("env", {})}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    command = [sys.executable, "-P", str(options.pop("script", SCRIPT)), *arguments]
    return subprocess.Popen(command, text=True, env=environment, **{**streams, **options})


def run(*arguments: str) -> subprocess.CompletedProcess:
    process = spawn(*arguments, stdout=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextmanager
def serving(model: Path, *arguments: str, **options):
    """A started engine: .process, .port and .url."""
    # One thread: two would spin at every barrier, 40 times slower on two cores shared with other work.
    with spawn("-m", str(model), "--port", "0", "-t", "1", *arguments, **options) as process:
        watchdog = _kill_after(process, DEADLINE_SECONDS)
        try:
            address = _address(process)
            yield SimpleNamespace(process=process, port=int(address.rpartition(":")[2]), url=address)
        finally:
            process.kill()
            watchdog.cancel()


def _kill_after(process: subprocess.Popen, seconds: float):
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer


def _address(process: subprocess.Popen) -> str:
    lines = []
    for line in process.stderr:
        lines.append(line)
        if match := re.search(r"listening on (http://\S+)", line):
            return match[1]
    raise AssertionError("the engine exited before it was ready:\n" + "".join(lines))


def get(port: int, path: str, key: str = KEY) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def engine(demo):
    with serving(demo, "-a", "demo", "-c", "32768", "--no-warmup", "-fa", "auto", "-ngl", "0", "--metrics") as started:
        yield started


@pytest.fixture(scope="module")
def client(engine):
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key=KEY, timeout=DEADLINE_SECONDS, max_retries=0) as client:
        yield client


def test_a_chat_is_answered(client):
    answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Grüße, 你好"}])
    assert answer.model == "demo"
    assert re.fullmatch(r"( [A-Za-z ]+\.)+", answer.choices[0].message.content)


def test_an_answer_has_the_form_of_its_schema(client):
    """A space that the tokenizer put in front of the template's "assistant:" did not match the schema's grammar: a chat
    was 400, and a completion ignored the schema."""
    properties = {"name": {"type": "string"}, "kind": {"enum": ["cat", "dog"]}, "number": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    chat = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Hello"}],
        temperature=0,
        max_tokens=500,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    body = {"prompt": "Hello", "json_schema": schema, "temperature": 0, "n_predict": 500}
    completion = client.post("../completion", body=body, cast_to=object)
    for text in (chat.choices[0].message.content, completion["content"]):
        assert json.loads(text).keys() == properties.keys()


def test_a_stream_ends_at_max_tokens(client):
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=50,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens == 50
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 40


def test_four_slots_share_one_cache_by_default(engine):
    status, slots = get(engine.port, "/slots")
    assert (status, [slot["n_ctx"] for slot in slots]) == (200, [32768] * 4)


def test_every_route_but_health_requires_the_key(engine):
    assert get(engine.port, "/health", key="")[0] == 200
    assert [get(engine.port, path, key="")[0] for path in ("/v1/models", "/slots", "/props")] == [401] * 3
    assert get(engine.port, "/v1/models")[0] == 200


def test_its_metrics_and_slots_are_read_with_its_key(engine, client):
    client.completions.create(model="demo", prompt="Hello", max_tokens=4, extra_body={"ignore_eos": True})
    address = Address(7, "demo", engine.port, KEY)
    [(_, page)] = fetch([address], "/metrics", DEADLINE_SECONDS)
    samples = {sample.name: sample for each in engine_metrics(page.decode(), "demo", "7") for sample in each.samples}
    assert samples["llamacpp_tokens_predicted_total"].value >= 4
    assert samples["llamacpp_n_tokens_max"].labels == {"model": "demo", "server": "7"}
    [(_, slots)] = fetch([address], "/slots", DEADLINE_SECONDS)
    assert len(json.loads(slots)) == 4
    assert fetch([Address(7, "demo", engine.port, "wrong")], "/metrics", DEADLINE_SECONDS) == []


def test_there_is_no_web_ui(engine):
    assert get(engine.port, "/")[0] == 404


def test_a_client_disconnecting_from_a_stream_frees_its_slot(engine):
    body = json.dumps({"prompt": "Hello", "n_predict": -1, "ignore_eos": True, "stream": True})
    head = f"POST /completion HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", engine.port), timeout=DEADLINE_SECONDS) as connection:
        connection.sendall((head + body).encode())
        assert b"200 OK" in connection.recv(4096)
        assert is_busy(engine.port)
    disconnected = time.monotonic()
    while is_busy(engine.port):
        assert time.monotonic() - disconnected < 3  # 5 to 100 ms; the whole answer would take half a minute
        time.sleep(0.01)


def is_busy(port: int) -> bool:
    return any(slot["is_processing"] for slot in get(port, "/slots")[1])


def test_embeddings_are_served(demo):
    with (
        serving(demo, "--embeddings", "--no-warmup", "-lv", "0") as started,
        openai.OpenAI(base_url=f"{started.url}/v1", api_key=KEY, timeout=DEADLINE_SECONDS) as client,
    ):
        vectors = client.embeddings.create(model="demo", input=["one", "two"], encoding_format="float").data
    assert [len(vector.embedding) for vector in vectors] == [64, 64]
    assert vectors[0].embedding != vectors[1].embedding


def test_sigterm_ends_it(demo):
    with serving(demo, "--no-warmup") as started:
        started.process.terminate()
        assert started.process.wait(DEADLINE_SECONDS) == -signal.SIGTERM


def test_end_of_file_on_stdin_ends_it(demo):
    """llama.cpp watches stdin itself: so a child notices that its parent was killed."""
    with serving(demo, "--no-warmup", env={"LLAMA_SERVER_ROUTER_PORT": "1"}, stdin=subprocess.PIPE) as started:
        started.process.stdin.close()
        assert started.process.wait(DEADLINE_SECONDS) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foo"], "error: invalid argument: --foo"),
        (["-m"], "error: expected value for argument: -m"),
        (["-m", "x", "-c", "many"], '"--ctx-size": bad value: many'),
        (["-m", "x", "-fa", "maybe"], '"--flash-attn": bad value: maybe'),
        (["-m", "x", "-fit", "maybe"], '"--fit": bad value: maybe'),
        (["--port", "0"], "--model is required"),
        (["-m", "/nonexistent.gguf", "--port", "0"], "failed to open GGUF file '/nonexistent.gguf'"),
    ],
)
def test_bad_arguments_are_rejected(arguments, message):
    ended = run(*arguments)
    assert (ended.returncode, message in ended.stderr) == (1, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_reported(demo, engine):
    ended = run("-m", str(demo), "--port", str(engine.port))
    assert (ended.returncode, "couldn't bind HTTP server socket" in ended.stderr) == (1, True), ended.stderr


def test_every_option_of_our_launches_is_accepted(demo):
    arguments = (
        "--host 127.0.0.1 -np 2 --kv-unified -no-kvu -c 2048 -b 256 -ub 128 -ctk q8_0 -ctv q8_0 -fa on -ngl all "
        "-sm layer -ts 3,1 -mg 0 --pooling mean --metrics --slots --jinja --no-ui --no-mmap --warmup -lv 4"
    )
    with serving(demo, *arguments.split()) as started:
        assert [slot["n_ctx"] for slot in get(started.port, "/slots")[1]] == [1024, 1024]


def post(port: int, path: str, **body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    try:
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {KEY}"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_a_bad_projector_is_rejected(demo):
    ended = run("-m", str(demo), "--port", "0", "--no-warmup", "--mmproj", str(demo))
    assert (ended.returncode, f"failed to load multimodal model, '{demo}'" in ended.stderr) == (1, True), ended.stderr


def test_adapters_are_loaded(demo, tmp_path):
    """Models of Ollama may have some; the option was missing."""
    one, two = (write_adapter(tmp_path / name) for name in ("one.gguf", "two.gguf"))
    with serving(demo, "--no-warmup", "--lora", str(one), "--lora-scaled", f"{two}:0.5") as started:
        loaded = get(started.port, "/lora-adapters")[1]
    assert [(each["path"], each["scale"]) for each in loaded] == [(str(one), 1.0), (str(two), 0.5)]


def test_options_that_configurations_of_llama_server_have_are_understood(tmp_path):
    """A model with one of them was started with the embedded engine in vain, although the docs list them."""
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    words = [
        *("--model", "x.gguf"),
        "--chat-template-file",
        str(template),
        "--numa",
        "isolate",
        "--reasoning",
        "off",
        "--reasoning-budget",
        "0",
    ]
    params = embedded_engine._params(embedded_engine._parse([*words, "--reasoning-budget-message", "enough"]))
    assert (params.chat_template, params.numa.name) == ("{{ messages }}", "GGML_NUMA_STRATEGY_ISOLATE")
    assert (params.enable_reasoning, params.default_template_kwargs) == (0, {"enable_thinking": "false"})
    sampling = params.sampling
    assert (sampling.reasoning_budget_tokens, sampling.reasoning_budget_message) == (0, "enough")


@pytest.mark.parametrize(
    "words", ["--chat-template-file /none", "--numa everywhere", "--reasoning maybe", "--reasoning-budget -2"]
)
def test_their_wrong_values_are_refused_at_the_start(words):
    with pytest.raises(embedded_engine.BadArgument, match=words.split()[0]):
        embedded_engine._params(embedded_engine._parse(words.split()))


def test_chat_options_take_effect(demo):
    arguments = "-np 1 -c 256 -n 7 --keep 3 --context-shift --chat-template chatml --reasoning-format none"
    with serving(demo, "--no-warmup", *arguments.split()) as started:
        props = get(started.port, "/props")[1]
        assert "<|im_start|>" in props["chat_template"]
        assert props["default_generation_settings"]["params"]["reasoning_format"] == "none"
        answer = post(started.port, "/completion", prompt="Hello", ignore_eos=True)
        assert (answer["tokens_predicted"], answer["generation_settings"]["n_keep"]) == (7, 3)
        beyond_the_context = post(started.port, "/completion", prompt="Hello", ignore_eos=True, n_predict=300)
        assert beyond_the_context["tokens_predicted"] == 300


def test_cache_reuse_takes_effect(demo):
    """The second prompt is the first without its beginning: the rest is shifted in the cache, not recomputed."""
    with serving(demo, "--no-warmup", "-np", "1", "--cache-reuse", "8") as started:
        tail = " ".join(f"word{n}" for n in range(60))
        for prompt in (f"start one two three {tail}", f"start {tail}"):
            answer = post(started.port, "/completion", prompt=prompt, n_predict=1)
        assert answer["timings"]["prompt_n"] < 10 < 400 < answer["timings"]["cache_n"]


def test_embedding_options_take_effect(demo):
    with serving(demo, "--no-warmup", "--embeddings", "--pooling", "mean", "--embd-normalize", "0") as started:
        (vector,) = post(started.port, "/embedding", content="hello")[0]["embedding"]
    assert round(max(map(abs, vector))) == 32760  # 0: the largest value, in 16 bits


def test_compute_options_take_effect(demo):
    arguments = "-t 1 -tb 2 --rope-freq-base 12345 --rope-freq-scale 0.5 --swa-full --no-warmup -lv 5"
    with spawn("-m", str(demo), "--port", "0", *arguments.split()) as process:
        watchdog = _kill_after(process, DEADLINE_SECONDS)
        log = ""
        while "listening on" not in log and (line := process.stderr.readline()):
            log += line
        process.kill()
        watchdog.cancel()
    for pattern in (
        "n_threads_batch = 2",
        r"freq_base +=.12345",
        r"freq_scale +=.0\.5",
        "swa_full is not supported by this",
    ):
        assert re.search(pattern, log), pattern


def log_of(*arguments: str, **options) -> list[str]:
    """The lines it logs until it is ready."""
    with spawn("--port", "0", "-t", "1", "--no-warmup", *arguments, **options) as process:
        watchdog = _kill_after(process, DEADLINE_SECONDS)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "listening on" in line:
                break
        process.kill()
        watchdog.cancel()
    return lines


def test_memory_is_reported_before_and_after_the_load(demo):
    """40 layers x 4096 cells x 32 values x 2 (K and V) x 2 bytes = 20 MiB; the weights are the file's 1.57 MiB."""
    lines = log_of("-m", str(demo), "-c", "4096", "-ngl", "0", "-fit", "on", "-lv", "4")
    report = EngineReport()
    reported = [number for number, line in enumerate(lines) if report.read(line)]
    loading = [number for number, line in enumerate(lines) if "load_tensors" in line]
    assert len(reported) == 1
    assert reported[0] < loading[0]
    assert report.projected.host.context_bytes == report.loaded().need.host.context_bytes == 20 * 2**20
    assert report.projected.total_bytes <= report.loaded().need.total_bytes <= report.projected.booked_bytes
    assert abs(report.loaded().need.host.weights_bytes - demo.stat().st_size) < 100_000


def test_fit_reports_without_changing_the_context_even_if_it_does_not_fit(demo, tmp_path):
    """Asked to leave a pebibyte free, it logs that it cannot, and loads with the given arguments."""
    script = tmp_path / "engine.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import embedded_engine as engine\n"
        "params = engine._params(engine._parse(sys.argv[1:]))\n"
        "params.fit_params_target = [2**50] * len(params.fit_params_target)\n"
        "engine._serve(params)\n"
    )
    lines = log_of("-m", str(demo), "-c", "4096", "-ngl", "0", "-fit", "on", "-lv", "4", script=script)
    log = "".join(lines)
    assert "context size set by user to 4096 -> no change" in log
    assert "was unable to fit model into system memory by reducing context, abort" in log
    assert re.search(r"llama_context: n_ctx += 4096", log)
    assert "listening on" in lines[-1]


def test_help_and_version():
    assert re.search(r"^-c,    --ctx-size N {20}", run("--help").stdout, re.MULTILINE)
    assert run("--version").stderr.startswith("version: xllamacpp 20")


def test_without_xllamacpp_it_says_how_to_install_it(tmp_path):
    script = tmp_path / "engine.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import embedded_engine as engine\n"
        "sys.modules['xllamacpp'] = None\n"
        "sys.exit(engine.main(sys.argv[1:]))\n"
    )
    with spawn("-m", "model.gguf", script=script) as process:
        _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, err) == (1, f"error: {embedded_engine._MISSING}\n")


def test_a_load_does_not_wait_for_slow_imports(tmp_path):
    """Reading the metadata of packages took an eighth of the CPU time of a small model's load."""
    script = tmp_path / "engine.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); before = set(sys.modules)\n"
        "import embedded_engine as engine\n"
        "engine._params(engine._parse(sys.argv[1:]))\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    with spawn("-m", "model.gguf", script=script, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=DEADLINE_SECONDS)
    imported = set(out.split())
    assert "xllamacpp" in imported
    assert not imported & {"email", "importlib.metadata"}


def test_devices_are_listed_in_llama_servers_format(tmp_path):
    """This wheel has only the CPU, which llama-server does not list either."""
    assert run("--list-devices").stdout == "Available devices:\n"
    assert re.search(r"^--list-devices {20,}print", run("--help").stdout, re.MULTILINE)
    script = tmp_path / "engine.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import embedded_engine as engine, xllamacpp\n"
        "kind = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU\n"
        "card = {'name': 'CUDA0', 'description': 'RTX 4090', 'memory_total': 24080 << 20, 'memory_free': 23 << 30}\n"
        "xllamacpp.get_device_info = lambda: [{**card, 'type': kind}]\n"
        "engine.main(['--list-devices'])\n"
    )
    with spawn(script=script, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert out == "Available devices:\n  CUDA0: RTX 4090 (24080 MiB, 23552 MiB free)\n"
