"""Conversations without a slot, in the running service with the embedded engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from tests.helpers.builders import MIB
from tests.helpers.service import Service, serving
from tests.helpers.tiny_models import write_generator

CONVERSATIONS, SLOTS, AT_ONCE, TURNS = 9, 3, 6, 3
SAID = 16  # tokens in a turn
# Short: what was computed in another batch differs in its last bits, and where two tokens are nearly as likely, the
# answers go different ways. A difference of 0.0002 in the logarithm of their probability was seen to be enough.
ANSWER = 4
SEED = 7
Tokens = list[int]


def test_conversations_that_take_turns_are_neither_mixed_up_nor_computed_again(tmp_path: Path):
    """llama.cpp has a report of a slot that went on with somebody else's conversation out of its prompt cache, under
    load (llama.cpp#27148). Here three times as many conversations as slots ask at once; each answer is the one that a
    server without any cache gives, and only what is new of each prompt is computed.
    """
    path = str(write_generator(tmp_path / "generator.gguf"))
    models = {
        "cached": {"path": path, "parallel": SLOTS, "prompt_cache": "64MiB"},
        "fresh": {"path": path, "parallel": 1, "prompt_cache": 0},
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"engine": {"binary": "embedded"}, "models": models, "defaults": {"ctx_size": 8192}}))
    with serving(tmp_path, "--config", str(config)) as service:
        prompts, fresh = conversations(service)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            cached = [list(pool.map(lambda prompt: answer_to(service, "cached", prompt), turn)) for turn in prompts]
        assert [texts(turn) for turn in cached] == [texts(turn) for turn in fresh]
        assert len(set(map(tuple, texts(fresh[0])))) == CONVERSATIONS, "each has an answer of its own"
        for turn in cached[1:]:
            assert computed(turn) <= CONVERSATIONS * (SAID + 2), "all but what was said since the last answer"
        assert {server["model"]: server["prompt_cache_bytes"] for server in status(service)["servers"]} == {
            "cached": 64 * MIB,
            "fresh": 0,
        }
        assert sorted(filter(None, map(cache_options, service.engines()))) == [
            ["--cache-ram", "0"],
            ["--cache-ram", "64", "--cache-idle-slots"],
        ]


def conversations(service: Service) -> tuple[list[list[Tokens]], list[list[dict[str, Any]]]]:
    """The prompts of all conversations and their answers without any cache, turn by turn."""
    random, prompts, answers = Random(SEED), [], []
    latest = [_tokens(random, random.randint(100, 300)) for _ in range(CONVERSATIONS)]
    for _ in range(TURNS):
        prompts.append(latest)
        answers.append([answer_to(service, "fresh", prompt, cache_prompt=False) for prompt in latest])
        latest = [
            prompt + answer["tokens"] + _tokens(random, SAID)
            for prompt, answer in zip(latest, answers[-1], strict=True)
        ]
    return prompts, answers


def answer_to(service: Service, model: str, prompt: Tokens, **options: Any) -> dict[str, Any]:
    greedy = {"n_predict": ANSWER, "temperature": 0, "seed": 1, "ignore_eos": True, "return_tokens": True}
    response = service.post("/completion", {"model": model, "prompt": prompt, **greedy, **options})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def _tokens(random: Random, count: int) -> Tokens:
    """Of single bytes."""
    return [random.randint(3, 250) for _ in range(count)]


def texts(answers: Sequence[dict[str, Any]]) -> list[Tokens]:
    return [answer["tokens"] for answer in answers]


def computed(answers: Sequence[dict[str, Any]]) -> int:
    return sum(answer["timings"]["prompt_n"] for answer in answers)


def status(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = service.get("/status").json()
    return answer


def cache_options(process: Any) -> list[str]:
    words = process.cmdline()
    return [
        *words[words.index("--cache-ram") :][:2],
        *(word for word in words if word in ("--cache-idle-slots", "--no-cache-idle-slots")),
    ]
