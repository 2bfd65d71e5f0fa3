"""Parsing of GGUF file names."""

from __future__ import annotations

import pytest

from app.entities.gguf_names import family, name_suffixes, parse_part_name, quantization


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("Qwen3-8B-Q4_K_M", "Q4_K_M"),
        ("Qwen3-8B-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("qwen2.5-7b-instruct-q8_0", "Q8_0"),
        ("Llama.i1-IQ2_XXS", "IQ2_XXS"),
        ("x_iq4_nl", "IQ4_NL"),
        ("x-Q4_0_4_8", "Q4_0_4_8"),
        ("x-Q6_K", "Q6_K"),
        ("x.f16", "F16"),
        ("x-BF16", "BF16"),
        ("x-TQ1_0", "TQ1_0"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("x-F16-Q4_K_S", "Q4_K_S"),  # made from F16: the last one counts
        ("Q8_0", "Q8_0"),
        ("gemma-3-4b-it", ""),
        ("VQ4_0", ""),
        ("x-Q4_Kay", ""),
    ],
)
def test_the_quantization_is_read_from_the_name(stem: str, expected: str):
    assert quantization(stem) == expected


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("Qwen2.5-VL-7B-Instruct-Q4_K_M", "qwen25vl7binstruct"),
        ("mmproj-Qwen2.5-VL-7B-Instruct-f16", "qwen25vl7binstruct"),
        ("Qwen2.5-VL-7B-Instruct.mmproj-Q8_0", "qwen25vl7binstruct"),
        ("mmproj_Qwen2_5_VL_7B_Instruct_BF16", "qwen25vl7binstruct"),
        ("mmproj-model-f16", ""),
        ("mmproj-F16", ""),
        ("mmproj", ""),
        ("supermodel-Q4_0", "supermodel"),
        ("模型-Q4_0", "模型"),
    ],
)
def test_quantizations_and_projectors_of_a_model_have_one_family(stem: str, expected: str):
    assert family(stem) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("big-00001-of-00003.gguf", ("big", 1, 3)),
        ("a/big-00003-of-00003.GGUF", ("a/big", 3, 3)),
        ("big-00000-of-00003.gguf", None),
        ("big-00004-of-00003.gguf", None),
        ("big-1-of-3.gguf", None),
        ("big-\u0660\u0660\u0660\u0660\u0661-of-\u0660\u0660\u0660\u0660\u0663.gguf", None),
        ("-00001-of-00003.gguf", None),
    ],
)
def test_parts_are_recognized_by_the_names_llama_gguf_split_gives(name: str, expected: object):
    assert parse_part_name(name) == expected


def test_name_suffixes_begin_after_separators():
    assert name_suffixes("Foo-UD-Q4_K") == ["UD-Q4_K", "Q4_K", "K"]
