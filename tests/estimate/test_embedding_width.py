"""Widths of embeddings: which projector fits which model."""

from __future__ import annotations

from typing import Any

import pytest

from app.entities.gguf import GgufHeader, Tensor
from app.use_cases.model_shape.embedding_width import model_width, projector_width
from bench.vram_truth import header


def a_projector(kind: str, tensors: dict[str, tuple[int, ...]], key: str = "clip.projector_type") -> GgufHeader:
    described = tuple(Tensor(name, shape, "F16", 2) for name, shape in tensors.items())
    return GgufHeader({"general.architecture": "clip", key: kind, "clip.vision.projection_dim": 768}, {}, described)


@pytest.mark.parametrize(
    ("model", "width"),
    [("gemma-3-4b", 2560), ("qwen2.5-vl-7b", 3584), ("qwen3-vl-2b", 8192), ("qwen3-vl-30b-a3b", 8192)],
)
def test_real_projectors_have_the_width_of_their_models(model: str, width: int):
    """Qwen3-VL: 2,048 and as many again for each of three deepstack layers."""
    assert projector_width(header(f"mmproj-{model}", "F16")) == model_width(header(model, "Q4_K_M")) == width


@pytest.mark.parametrize(
    ("kind", "tensors", "width"),
    [
        # LLaVA 1.5: its projection_dim is CLIP's own, 768
        ("mlp", {"mm.0.weight": (1024, 4096), "mm.2.weight": (4096, 4096)}, 4096),
        ("gemma3", {"mm.input_projection.weight": (2560, 1152)}, 2560),
        ("gemma4v", {"mm.input_projection.weight": (1152, 2560)}, 2560),
        ("internvl", {"mm.model.mlp.3.weight": (4096, 3584)}, 3584),
        # 4,096 and as many again for each of three deepstack layers
        (
            "qwen3vl_merger",
            {"mm.2.weight": (4608, 4096)}
            | {f"v.deepstack.{il}.{fc}.weight": (1,) for il in (8, 16, 24) for fc in "ab"},
            16384,
        ),
        ("newer-than-us", {"mm.2.weight": (4096, 4096)}, None),
        ("mlp", {"mm.other.weight": (4096, 4096)}, None),
        ("mlp", {"mm.2.weight": (4096,)}, None),
    ],
)
def test_the_projecting_tensor_has_the_width(kind: str, tensors: dict[str, tuple[int, ...]], width: int | None):
    assert projector_width(a_projector(kind, tensors)) == width
    assert projector_width(a_projector(kind, tensors, "clip.vision.projector_type")) == width


@pytest.mark.parametrize(
    ("metadata", "tensors", "width"),
    [
        ({"general.type": "mmproj"}, {}, 768),
        ({"general.type": "mmproj", "clip.vision.projection_dim": 0, "clip.audio.projection_dim": 2048}, {}, 2048),
        ({"general.type": "mmproj", "clip.vision.projection_dim": "768"}, {}, None),
        ({"general.type": "mmproj"}, {"v.deepstack.5.fc1.weight": (1,)}, None),
        ({}, {}, None),  # an older converter's: may be the vision model's own
    ],
)
def test_a_projector_of_an_unknown_type_has_the_width_that_it_declares(
    metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]], width: int | None
):
    plain = a_projector("newer-than-us", tensors)
    assert projector_width(GgufHeader(dict(plain.metadata) | metadata, {}, plain.tensors)) == width


def test_a_projector_for_audio_has_a_width_too():
    assert (
        projector_width(a_projector("voxtral", {"mm.a.mlp.2.weight": (1, 3072)}, "clip.audio.projector_type")) == 3072
    )


@pytest.mark.parametrize(
    ("metadata", "width"),
    [
        ({"llama.embedding_length": 4096}, 4096),
        ({"llama.embedding_length": 4096, "llama.n_deepstack_layers": 3}, 16384),
        ({"llama.embedding_length": 4096, "llama.deepstack_mapping": (0, 1)}, None),
        ({"llama.embedding_length": "4096"}, None),
        ({}, None),
    ],
)
def test_a_model_takes_its_embedding_length_and_what_deepstack_adds(metadata: dict[str, Any], width: int | None):
    assert model_width(GgufHeader({"general.architecture": "llama"} | metadata, {}, ())) == width
