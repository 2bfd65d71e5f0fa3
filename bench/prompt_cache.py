"""Counts the prompt tokens that are computed when conversations take turns: here, and with llama-server alone.

    python -m bench.prompt_cache [--quick] [--json] [--record FILE]

Each conversation has a text of its own of some 1,580 tokens. All have one turn, then all a second one, in the same
order, whose prompt is the first with its answer and 32 tokens more. `alone` is the same engine with the same slots,
context and `--cache-ram`, and its own defaults for the rest; `before` is this service with `prompt_cache: 0`, as it was
without the cache. The figures are tokens of the second turns that were computed (`timings.prompt_n`), out of all of
them. Turns come one at a time, or as many at once as there are slots.

Real service, embedded engine, a tiny model with random weights. `worse` counts the rows in which this service computed
more than llama-server alone; it should be 0. Rows with turns at once vary: the order in which requests arrive decides
which slot they get.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

import requests

from bench.record import record
from tests.helpers.service import serving, wait_for
from tests.helpers.tiny_models import write_generator
from workers.server.child_process import free_port

MODEL = "generator"
ENGINE = Path(__file__).parents[1] / "workers" / "engine" / "embedded_engine.py"
CTX_TOKENS = 16384  # 2 MiB of this model
PROMPT_TOKENS, TURN_TOKENS, ANSWER_TOKENS = 1580, 32, 8
SMALLEST_TOKEN, LARGEST_TOKEN = 3, 250  # those of single bytes
SLOTS, CONVERSATIONS, CACHES_MIB = (1, 4), (4, 8, 16), (64, 1)
QUICK = ((4,), (8,), (64,))


@dataclass(frozen=True)
class Row:
    """Tokens computed in the second turns."""

    slots: int
    conversations: int
    cache_mib: int
    at_once: int
    prompt_tokens: int  # of the second turns
    ours: int
    alone: int
    before: int


@dataclass(frozen=True)
class Case:
    slots: int
    conversations: int
    at_once: int

    def computed(self, url: str) -> tuple[int, int]:
        """(computed, all) prompt tokens of the second turns."""
        random = Random(f"{self.slots} {self.conversations}")
        prompts = [_tokens(random, PROMPT_TOKENS) for _ in range(self.conversations)]
        with ThreadPoolExecutor(self.at_once) as pool:
            answers = list(pool.map(partial(turn, url), prompts))
            longer = [
                prompt + answer["tokens"] + _tokens(random, TURN_TOKENS)
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
            timings = [answer["timings"] for answer in pool.map(partial(turn, url), longer)]
        return sum(each["prompt_n"] for each in timings), sum(map(len, longer))


def _tokens(random: Random, count: int) -> list[int]:
    return [random.randint(SMALLEST_TOKEN, LARGEST_TOKEN) for _ in range(count)]


def turn(url: str, prompt: list[int]) -> dict:  # type: ignore[type-arg]
    body = {"model": MODEL, "prompt": prompt, "n_predict": ANSWER_TOKENS, "temperature": 0, "seed": 1}
    answer = requests.post(f"{url}/completion", json={**body, "return_tokens": True, "ignore_eos": True}, timeout=120)
    assert answer.ok, answer.text
    found: dict = answer.json()  # type: ignore[type-arg]
    return found


@contextlib.contextmanager
def ours(slots: int, cache: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(write_generator(Path(folder) / "model.gguf"))
        model = {"path": path, "parallel": slots, "ctx_size": CTX_TOKENS, "prompt_cache": cache}
        config = Path(folder) / "config.json"
        config.write_text(json.dumps({"engine": {"binary": "embedded"}, "models": {MODEL: model}}))
        with serving(Path(folder), "--config", str(config)) as service:
            yield service.url


@contextlib.contextmanager
def alone(slots: int, cache_mib: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        model, port = write_generator(Path(folder) / "model.gguf"), free_port()
        options = ["--ctx-size", CTX_TOKENS, "--parallel", slots, "--kv-unified", "--cache-ram", cache_mib]
        options += ["--threads", 1, "--port", port, "--host", "127.0.0.1"]
        command = [sys.executable, "-P", ENGINE, "--model", model, *options]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(list(map(str, command)), **silent) as process:  # type: ignore[call-overload]
            try:
                url = f"http://127.0.0.1:{port}"
                wait_for(lambda: _is_ready(url), 60, lambda: f"llama-server: {process.poll()}")
                yield url
            finally:
                process.kill()


def _is_ready(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{url}/health", timeout=5).status_code == 200
    return False


def measure(slots: int, conversations: int, cache_mib: int, at_once: int) -> Row:
    """A new server for each figure."""
    case = Case(slots, conversations, at_once)
    systems: list[Callable[[], contextlib.AbstractContextManager[str]]] = [
        partial(ours, slots, f"{cache_mib}MiB"),
        partial(alone, slots, cache_mib),
        partial(ours, slots, "0"),
    ]
    found = []
    for system in systems:
        with system() as url:
            found.append(case.computed(url))
    return Row(slots, conversations, cache_mib, at_once, found[0][1], *(computed for computed, _ in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one row")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    rows = []
    for slots, conversations, cache_mib in product(*(QUICK if given.quick else (SLOTS, CONVERSATIONS, CACHES_MIB))):
        for at_once in sorted({1, slots}):
            rows.append(measure(slots, conversations, cache_mib, at_once))
            if not given.json:
                print(rows[-1], flush=True)
    figures = {"rows": [asdict(row) for row in rows], "worse": sum(row.ours > row.alone for row in rows)}
    if given.json:
        print(json.dumps(figures, indent=2))
    if given.record:
        record(given.record, figures, ctx_tokens=CTX_TOKENS, prompt_tokens=PROMPT_TOKENS)


if __name__ == "__main__":
    main()
