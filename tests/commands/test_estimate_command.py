"""`estimate` on the command line: a table or JSON from the header; one line and exit 2 if the file is not a model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from tests.helpers.builders import a_gguf
from tests.helpers.gguf_bytes import Info, a_file
from workers.catalog.demo_model import write_demo_model

ITEMS = ("weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_model(folder)
    return str(next(folder.glob("*.gguf")))


def run_estimate(*args: str) -> Result:
    return CliRunner().invoke(main, ["estimate", *args])


def answer(*args: str) -> dict:
    result = run_estimate(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_items_add_up_to_the_total_in_the_table(demo: str):
    report = answer(demo, "--ctx-size", "4096")
    (device,) = report["devices"]
    assert device["total_bytes"] == sum(device[item] for item in ITEMS)
    assert set(report) == {"model", "settings", "devices", "host", "confidence", "notes"}
    table = run_estimate(demo, "--ctx-size", "4096").output
    assert "GPU 0" in table and f"{device['total_bytes'] / 1024**2:,.1f}" in table


def test_separate_slots_and_a_quantized_cache_are_counted(demo: str):
    def context(*args: str) -> int:
        return answer(demo, *args)["devices"][0]["context_bytes"]

    shared = context("--ctx-size", "4096")
    assert context("--ctx-size", "4096", "--parallel", "3") == shared * 3 * 1536 // 4096  # 1365 cells, padded to 256
    quantized = context("--ctx-size", "4096", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0")
    assert quantized >= shared * 34 // 64


def test_a_tensor_split_distributes_the_weights(demo: str):
    whole = answer(demo)["devices"][0]["weights_bytes"]
    parts = answer(demo, "--devices", "2", "--tensor-split", "1,1")["devices"]
    assert len(parts) == 2 and all(part["weights_bytes"] for part in parts)
    assert sum(part["weights_bytes"] for part in parts) == pytest.approx(whole, rel=0.01)


def test_without_devices_everything_is_in_ram(demo: str):
    report = answer(demo, "--devices", "0")
    assert report["devices"] == [] and report["host"]["context_bytes"] > 0


def test_fit_in_prints_the_largest_context_that_fits(demo: str):
    (fit, *_) = answer(demo, "--fit-in", "700MiB")["fit"]

    def need(tokens: int) -> int:
        device = answer(demo, "--ctx-size", str(tokens))["devices"][0]
        return device["total_bytes"] + device["margin_bytes"]

    assert fit["total_bytes"] == need(fit["ctx_size"]) <= 700 * 1024**2 < need(fit["ctx_size"] + 256)


def test_fit_in_is_exit_1_if_nothing_fits(demo: str):
    result = run_estimate(demo, "--fit-in", "1MiB")
    assert result.exit_code == 1 and "does not fit" in result.output


@pytest.mark.parametrize(
    ("args", "word"),
    [
        *((("--fit-in", size), "size") for size in ("much", "8", "", "0GiB", "24GiB extra", "24,5GiB", "24GiB,x")),
        (("--fit-in", "24GiB,8GiB"), "2 sizes for 1 device"),
        (("--embeddings", "--reranking"), "only one of them"),
        (("--cache-type-v", "q4_0", "--flash-attn", "off"), "needs --flash-attn"),
        (("--tensor-split", "a,b"), "share"),
        (("--tensor-split", "nan,1"), "share"),
        (("--tensor-split", "1,1", "--devices", "1"), "2 shares"),
        (("--main-gpu", "3"), "--main-gpu"),
        (("-ot", "exps=CUDA1"), "--override-tensor exps=CUDA1: there is 1 device, numbered from 0"),
    ],
)
def test_invalid_options_are_one_line_and_exit_2(demo: str, args: tuple[str, ...], word: str):
    result = run_estimate(demo, *args)
    assert result.exit_code == 2 and word in result.output and len(result.output.splitlines()) == 1


def test_a_context_fits_only_if_it_fits_on_each_gpu(demo: str):
    """With one size per GPU: the second GPU has a smaller share of the context and less memory."""
    split = (demo, "--tensor-split", "3,1", "--ctx-size", "4096")
    (fit, *_) = answer(*split, "--fit-in", "900MiB,600MiB")["fit"]

    def needs(tokens: int) -> list[int]:
        devices = answer(*split[:3], "--ctx-size", str(tokens))["devices"]
        return [device["total_bytes"] + device["margin_bytes"] for device in devices]

    sizes = (900 * 1024**2, 600 * 1024**2)
    assert all(need <= size for need, size in zip(needs(fit["ctx_size"]), sizes, strict=True))
    assert any(need > size for need, size in zip(needs(fit["ctx_size"] + 256), sizes, strict=True))


def test_a_quantized_v_cache_is_not_offered_without_flash_attention(demo: str):
    found = answer(demo, "--flash-attn", "off", "--fit-in", "2GiB")["fit"]
    assert [fit["cache_type_v"] for fit in found] == ["f16"]


def test_split_mode_none_is_about_its_gpu_alone(demo: str):
    """The size is the second GPU's, and so is the row: it once was a traceback, and a row named GPU 0."""
    alone = (demo, "--devices", "2", "-sm", "none", "-mg", "1")
    report = answer(*alone, "--fit-in", "24GiB,700MiB")
    assert [device["gpu"] for device in report["devices"]] == [1]
    assert report["fit"] == answer(demo, "--fit-in", "700MiB")["fit"]
    assert "GPU 1 " in run_estimate(*alone).output and "GPU 0 " not in run_estimate(*alone).output
    nothing = run_estimate(*alone, "--fit-in", "24GiB,1MiB")
    assert nothing.exit_code == 1 and "GPU 1 needs" in nothing.output


def test_only_types_that_were_tried_are_called_any(demo: str, tmp_path: Path):
    """Without flash attention a quantized V is refused, so a context with f16 says nothing about it."""
    assert "fits with KV f16 " in run_estimate(demo, "--flash-attn", "off", "--fit-in", "2GiB").output
    assert "fits with KV q8_0/f16 " in run_estimate(demo, "-ctk", "q8_0", "-fa", "off", "--fit-in", "2GiB").output


def test_options_without_the_expected_effect_are_noted(demo: str):
    notes = answer(demo, "--ctx-size", "65536", "--ubatch-size", "4096", "--n-cpu-moe", "3")["notes"][:-1]
    assert [word for note, word in zip(notes, ("trained", "batch", "experts"), strict=True) if word in note] == [
        "trained",
        "batch",
        "experts",
    ]


def test_llama_servers_short_options_are_accepted(demo: str):
    long = answer(demo, "--ctx-size", "4096", "--n-gpu-layers", "999", "--cache-type-k", "q8_0", "--parallel", "2")
    assert answer(demo, "-c", "4096", "-ngl", "-1", "-ctk", "q8_0", "-np", "2") == long


def test_a_file_with_fewer_layers_than_its_header_states_has_low_confidence(tmp_path: Path):
    path = tmp_path / "m.gguf"
    metadata = {"general.architecture": "llama", "llama.block_count": 7, "llama.embedding_length": 64}
    path.write_bytes(a_file(metadata, [Info("blk.0.attn_q.weight")]))
    report = answer(str(path))
    assert report["confidence"] == "low"
    assert "6 of the 7 layers have no tensors" in report["notes"]


def test_an_automatic_context_is_that_on_this_machine(demo: str, tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(f"models: {{m: {{path: '{demo}'}}, set: {{path: '{demo}', ctx_size: 2048}}}}\n")
    report = answer("m", "--config", str(config))
    note = "the context is that of ctx_size auto on this machine"
    assert (report["settings"]["ctx_size"], report["notes"][0]) == (32768, note)
    for typed in (("set",), ("m", "-c", "2048")):
        report = answer(*typed, "--config", str(config))
        assert (report["settings"]["ctx_size"], len(report["notes"])) == (2048, 2)
        assert report["notes"][0].startswith("prompt_cache auto adds ")
    config.write_text(f"models: {{m: {{path: '{demo}', prompt_cache: 64MiB}}}}\n")
    assert answer("m", "--config", str(config))["host"]["prompt_cache_bytes"] == 64 * 1024**2


def test_a_model_of_the_catalogue_is_called_by_its_name(demo: str, tmp_path: Path):
    """Files of Ollama are called sha256-..."""
    blob = tmp_path / f"sha256-{'a' * 64}"
    blob.symlink_to(demo)
    (tmp_path / "config.yaml").write_text(f"models: {{mine: {{path: '{blob}'}}}}\n")
    result = run_estimate("mine", "--config", str(tmp_path / "config.yaml"))
    assert result.output.startswith("mine  (llama, ")


def test_an_unservable_model_is_one_line_with_the_reason(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(f"models: {{gone: {{path: '{tmp_path}/none.gguf'}}, other: {{path: '{tmp_path}/none2.gguf'}}}}\n")
    result = run_estimate("gone", "--config", str(config))
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1
    assert "'gone' cannot be served" in result.output and "none.gguf" in result.output


def test_a_file_that_is_not_a_model_is_one_line_and_exit_2(tmp_path: Path):
    (tmp_path / "text.gguf").write_text("hello, this is no model at all")
    cut = a_gguf(tmp_path / "cut.gguf")
    os.truncate(cut, 60)
    for path in (tmp_path / "text.gguf", tmp_path, tmp_path / "missing.gguf", cut):
        result = run_estimate(str(path))
        assert result.exit_code == 2 and len(result.output.splitlines()) == 1, result.output


def test_an_unknown_name_is_exit_2(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(f"catalog: {{models_dirs: ['{tmp_path}']}}\n")
    result = run_estimate("nobody", "--config", str(config))
    assert result.exit_code == 2 and "nobody" in result.output


def test_a_pattern_of_tensors_that_matches_none_is_noted(demo: str):
    notes = answer(demo, "-ot", r"blk\.0\.ffn_up=CPU,ffn_up_expz=CPU")["notes"]
    assert [note for note in notes if "tensor" in note] == [
        "tensor_overrides: no tensor of the model matches 'ffn_up_expz'"
    ]
    assert not [note for note in answer(demo, "--n-cpu-ffn", "500")["notes"] if "tensor_overrides" in note]


def test_llama_servers_other_options_count_as_it_spells_them(demo: str):
    plain = answer(demo, "-c", "4096")
    report = answer(
        demo, "--ctx_size=4096", "--gpu-layers", "all", "--no-kv-offload", "--batch-size=1024", "--temp", "-1"
    )
    assert report["settings"]["batch_size"] == 1024
    assert (report["devices"][0]["context_bytes"], report["host"]["context_bytes"]) == (
        0,
        plain["devices"][0]["context_bytes"],
    )
    assert report["notes"][:-1] == ["no effect on memory: --temp"]


def test_companion_files_can_be_named(demo: str):
    with_draft, plain = answer(demo, "-md", demo, "--spec-type", "draft-simple"), answer(demo)
    assert with_draft["devices"][0]["weights_bytes"] == 2 * plain["devices"][0]["weights_bytes"]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--foo", "1"), "No such option"),
        (("-hf", "user/repo"), "names a model"),
        (("-ot", "exps"), "PATTERN=BUFFER"),
        (("--lora", "/missing.gguf"), "cannot be read"),
    ],
)
def test_an_option_that_cannot_be_estimated_is_exit_2(demo: str, args: tuple[str, ...], word: str):
    result = run_estimate(demo, *args)
    assert result.exit_code == 2 and word in result.output


def test_the_confidence_says_what_stands_behind_it(demo: str):
    modelled = answer(demo, "--devices", "2")
    assert modelled["confidence"] == "modelled"
    assert re.fullmatch(r"measured within \d[\d.]* % over \d+ rows", modelled["notes"][-1])
    assert f"confidence: modelled, {modelled['notes'][-1]}\n" in run_estimate(demo, "--devices", "2").output
    low = run_estimate(demo, "--no-op-offload").output
    assert re.search(r"^confidence: low, 10 % booked on top\nthe effect of --no-op-offload", low, re.MULTILINE)


def test_a_draft_model_may_have_a_gpu_that_its_model_does_not_use(demo: str):
    def devices(*args: str) -> list[dict]:
        return answer(demo, "-c", "4096", "--devices", "2", "-sm", "none", *args)["devices"]

    (alone,) = devices("-devd", "CUDA1")
    model, draft = devices("-devd", "CUDA1", "-md", demo)
    assert (model["gpu"], draft["gpu"]) == (0, 1)
    assert model["weights_bytes"] == alone["weights_bytes"] == draft["weights_bytes"]
    (both,) = devices("-md", demo)
    assert both["context_bytes"] == model["context_bytes"] + draft["context_bytes"]
    assert devices("-mg", "1", "-devd", "CUDA0", "-md", demo)[1]["gpu"] == 0


def test_tensors_split_over_gpus_are_divided_with_low_confidence(demo: str):
    """llama.cpp does not tell its parts: each GPU gets its share of one GPU's weights, and computes as much as one."""
    (alone,) = answer(demo, "-c", "4096")["devices"]
    report = answer(demo, "-c", "4096", "-sm", "tensor", "-ts", "3,1")
    first, second = report["devices"]
    assert report["confidence"] == "low" and "--split-mode tensor" in report["notes"][0]
    assert abs(first["weights_bytes"] + second["weights_bytes"] - alone["weights_bytes"]) <= 1
    assert first["compute_bytes"] == second["compute_bytes"] == alone["compute_bytes"]
    assert first["margin_bytes"] > 0 and second["margin_bytes"] > 0


@pytest.mark.parametrize("turn", ["first", "second"])
def test_a_variable_that_a_command_sets_does_not_reach_the_next_test(tmp_path: Path, turn: str):
    """It named a file in a folder that was gone, and a service of a later test did not start."""
    assert "LLAMA_SMART_PROXY_CONFIG" not in os.environ
    (tmp_path / "config.yaml").write_text("{}")
    assert run_estimate("of-no-model", "--config", str(tmp_path / "config.yaml")).exit_code == 2
    assert "LLAMA_SMART_PROXY_CONFIG" in os.environ
