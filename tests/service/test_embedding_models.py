"""Embedding and rerank models work without any settings: known by their headers, started with the right options."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.helpers.service import Service, serving
from tests.helpers.tiny_models import write_embedder, write_reranker


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("embedding")
    write_embedder(folder / "models" / "embedder.gguf")
    write_reranker(folder / "models" / "reranker.gguf")
    with serving(folder, "--models-dir", str(folder / "models")) as service:
        yield service


def arguments(service: Service, model: str) -> list[str]:
    args: list[str] = service.get(f"/v1/models/{model}").json()["status"]["args"]
    return args


@pytest.mark.parametrize("tokens", [10, 600, 5000])
def test_an_input_of_any_length_up_to_the_context_is_embedded(service: Service, tokens: int):
    """llama-server's ubatch is 512 and its batch 2048: neither 600 nor 5,000 tokens would fit."""
    answer = service.post("/v1/embeddings", {"model": "embedder", "input": "x" * tokens})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] > tokens
    assert len(answer.json()["data"][0]["embedding"]) == 64
    args = arguments(service, "embedder")
    assert "--embeddings" in args
    placed = service.get("/v1/models/embedder").json()["estimate"]["host"]["compute_bytes"]
    assert placed > 2 * 8192 * 8192, "the masks of 8,192 tokens are booked"
    assert [args[args.index(name) + 1] for name in ("--batch-size", "--ubatch-size")] == ["8192", "8192"]


def test_a_rerank_model_ranks(service: Service):
    documents = ["short", "long " * 600]
    answer = service.post("/v1/rerank", {"model": "reranker", "query": "which?", "documents": documents})
    assert answer.status_code == 200, answer.text
    assert sorted(result["index"] for result in answer.json()["results"]) == [0, 1]
    assert "--reranking" in arguments(service, "reranker")


def test_lists_tell_them_from_chat_models(service: Service):
    listed = {model["id"]: model for model in service.get("/v1/models").json()["data"]}
    assert {name: model["capabilities"] for name, model in listed.items()} == {
        "embedder": ["embedding"],
        "reranker": ["rerank"],
    }
    assert {model["context_length"] for model in listed.values()} == {8192}
    headers = {"anthropic-version": "2023-06-01"}
    found = requests.get(service.url + "/v1/models", headers=headers, timeout=20).json()
    assert (found["data"], found["has_more"]) == ([], False)
