"""llama-server's own arguments in a question about memory: each spelling is known, and a wrong one is an error."""

from __future__ import annotations

import pytest

from app.entities.launch import ALL_LAYERS, ModelOptions
from app.use_cases.launch.typed_arguments import WrongArgument, is_argument, read_arguments, takes_value
from workers.engine import embedded_engine

PRINTS = {"--help", "--version", "--list-devices"}


def test_every_option_of_the_embedded_engine_is_known_with_its_value():
    for option in embedded_engine.OPTIONS:
        for name in () if PRINTS & set(option.names) else (*option.names, *option.off):
            assert is_argument(name) and takes_value(name) == bool(option.value), name


def test_options_are_read_in_every_spelling_and_with_their_value_in_one_word():
    typed = read_arguments(
        [
            "-ot",
            "exps=CPU",
            "--batch_size=1024",
            "-nkvo",
            "--spec-draft-ncmoe",
            "3",
            "-cmoed",
            "-nr",
            "-dev",
            "CUDA0,CUDA1",
        ]
    )
    changed = ModelOptions(
        repack=False,
        overrides=(("exps", "CPU"),),
        batch_size=1024,
        kv_offload=False,
        draft_n_cpu_moe=ALL_LAYERS,
        devices=2,
    )
    assert typed.applied(ModelOptions()) == changed
    assert typed.words[:4] == ("-ot", "exps=CPU", "--batch-size", "1024")


def test_what_has_no_effect_is_noted_and_what_has_an_unknown_one_is_unmeasured():
    kept = "tokenizer.ggml.add_bos_token=bool:false"
    typed = read_arguments(["--temp", "-1", "--mlock", "-cram", "512", "--no-op-offload", "--override-kv", kept])
    assert typed.applied(ModelOptions()).unmeasured == ("--no-op-offload",)
    growing, nothing = typed.notes
    assert "-cram" in growing and "--temp, --mlock" in nothing


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--foo"], "not an option of llama-server"),
        (["word"], "not an option of llama-server"),
        (["-b"], "needs a value"),
        (["-b", "many"], "does not take"),
        (["-ot", "exps"], "PATTERN=BUFFER"),
        (["-ot", "exps=RAM"], "does not take 'exps=RAM'"),
        (["-ot", "a=b=CPU"], "does not take"),
        (["-ot", "(=CPU"], "does not take"),
        (["--n-cpu-ffn", "-5"], "does not take"),
        (["-nkvo=1"], "not an option"),
        (["--no-kv-offload=1"], "takes no value"),
        (["-hf", "user/repo"], "names a model"),
        (["--gpt-oss-20b-default"], "names a model"),
        (["--rpc", "host:1"], "other machines"),
    ],
)
def test_a_wrong_argument_is_an_error(words: list[str], why: str):
    with pytest.raises(WrongArgument, match=why):
        read_arguments(words)
