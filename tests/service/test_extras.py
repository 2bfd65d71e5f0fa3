"""What a model is loaded with beyond its file, with the embedded engine: adapters, and what drafts tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import psutil
import pytest

from tests.helpers.service import Service, serving
from tests.helpers.tiny_models import write_adapter
from workers.catalog.demo_model import write_demo_model


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("extras")
    demo = write_demo_model(folder / "demo")
    write_adapter(folder / "loud.gguf", 3.0)
    models = {
        "adapted": {
            "path": str(demo),
            "lora": [{"path": str(folder / "loud.gguf"), "scale": 0}],
            "prompt_cache": "64MiB",
        },
    }
    models["drafted"] = {"path": str(demo), "speculative": {"draft": "little", "max_tokens": 5}}
    models["repeating"] = {"path": str(demo), "speculative": {"type": "ngram-mod"}}
    shutil.copy(demo, folder / "little.gguf")
    with serving(folder, "--models-dir", str(folder), MODELS=json.dumps(models), DEFAULTS__CTX_SIZE="2048") as service:
        yield service


def text_of(service: Service, model: str, **fields: object) -> str:
    answer = service.post("/v1/completions", {"model": model, "prompt": "a b", "max_tokens": 24, "seed": 1, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def test_a_request_chooses_the_scale_of_an_adapter(service: Service):
    """Of llama-server alone the later answers are computed with what the second has cached under its adapter."""
    without = text_of(service, "adapted", temperature=0)
    assert text_of(service, "adapted", temperature=0, lora=[{"id": 0, "scale": 1.0}]) != without
    assert text_of(service, "adapted", temperature=0, lora=[]) == without, "an empty list names no scales, either"
    assert text_of(service, "adapted", temperature=0) == without, "another request is as before"
    args = service.get("/v1/models/adapted").json()["status"]["args"]
    assert args[args.index("--lora-scaled") + 1].endswith("loud.gguf:0")


def test_what_was_computed_under_other_scales_is_never_reused(service: Service):
    """llama-server's prompt cache, and a saved slot, say nothing of scales: a request with huge ones took over the
    answers of others whose prompts began like its own, once its conversation had been pushed out of its slot."""
    prompt = "a b c d e f g h " * 8
    without = text_of(service, "adapted", prompt=prompt, temperature=0, cache_prompt=False)
    assert text_of(service, "adapted", prompt=prompt, temperature=0, lora=[{"id": 0, "scale": 10}]) != without
    for other in range(8):  # twice as many as slots
        text_of(service, "adapted", prompt=f"{other} " * 40)
    assert text_of(service, "adapted", prompt=prompt, temperature=0) == without


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("drafted", {"--spec-type": "draft-simple", "--spec-draft-n-max": "5"}),
        ("repeating", {"--spec-type": "ngram-mod"}),
    ],
)
def test_tokens_are_drafted_and_accepted(service: Service, model: str, options: dict[str, str]):
    body = {"model": model, "prompt": "a b", "max_tokens": 100, "temperature": 0, "ignore_eos": True}
    timings = service.post("/v1/completions", body).json()["timings"]
    assert 0 < timings["draft_n_accepted"] <= timings["draft_n"]
    processes = psutil.Process(service.process.pid).children(recursive=True)
    (args,) = [line for process in processes if model in (line := process.cmdline())]
    assert {name: args[args.index(name) + 1] for name in options} == options


def test_a_draft_model_is_booked(service: Service):
    service.post("/models/load", {"model": "drafted"})
    service.post("/models/load", {"model": "repeating"})
    drafted, alone = (
        service.get(f"/v1/models/{model}").json()["estimate"]["host"] for model in ("drafted", "repeating")
    )
    for item in ("weights_bytes", "context_bytes"):
        assert 1.9 * alone[item] < drafted[item] < 2.1 * alone[item], "the same file again"
