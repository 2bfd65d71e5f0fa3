"""`convert-config`: llama-swap's file becomes one that `check-config` accepts, and every difference is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from app.commands.cli import main
from app.settings.valid_part import valid_part

SWAP = """
startPort: 10001
sendLoadingState: true
macros:
  server: >
    /opt/llama/llama-server-b1
    --port ${PORT}
  context: 4096
  sized: "--ctx-size ${context}"
apiKeys: [sesame]
models:
  big:
    macros: {context: 16384, temp: 0.7}
    cmd: |
      # a comment
      ${server} \\
      --model /models/big.gguf ${sized} -fa -ngl 99 --jinja --temp ${temp} -ts 3,1 -np 2
    ttl: 60
    env: ["CUDA_VISIBLE_DEVICES=0", "TOKEN=hidden"]
    filters:
      stripParams: "top_p, model"
      setParamsByID: {"${MODEL_ID}:high": {temperature: "${temp}"}}
    aliases: [gpt-4o-mini]
  boxed: {cmd: docker run image}
hooks: {on_startup: {preload: [gpt-4o-mini]}}
"""


def convert(folder: Path, text: str, *more: str) -> Result:
    (folder / "swap.yaml").write_text(text)
    return CliRunner().invoke(main, ["convert-config", str(folder / "swap.yaml"), *more])


def test_flags_macros_filters_and_names_become_settings(tmp_path):
    done = convert(tmp_path, SWAP)
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["models"] == {
        "big": {
            "path": "/models/big.gguf",
            "ctx_size": 16384,
            "flash_attn": "on",
            "parallel": 2,
            "kv_unified": False,  # as llama-server has it if the number of slots is given
            "args": ["--jinja", "--temp", "0.7"],
            "env": {"TOKEN": "hidden"},
            "ttl_seconds": 60,
            "requests": {"strip": ["top_p"]},
            "aliases": ["gpt-4o-mini"],
            "variants": {"big:high": {"set": {"temperature": 0.7}}},
            "preload": True,
        }
    }


def test_each_difference_is_one_line_without_secrets(tmp_path):
    lines = convert(tmp_path, SWAP).stderr.splitlines()
    assert any(line.startswith("big: not needed: --port: ") for line in lines)
    assert any(line.startswith("big: not needed: CUDA_VISIBLE_DEVICES: ") for line in lines)
    assert any(line.startswith("boxed: not carried over: its command is docker") for line in lines)
    assert lines[-1].startswith("1 of 2 models converted")
    assert not {"sesame", "hidden"} & set(" ".join(lines).split())


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    target = tmp_path / "new.yaml"
    target.write_text("mine")
    assert convert(tmp_path, SWAP, "-o", str(target)).exit_code == 1
    assert target.read_text() == "mine"
    assert convert(tmp_path, SWAP, "-o", str(target), "--force").exit_code == 0
    assert CliRunner().invoke(main, ["check-config", "--config", str(target)]).exit_code == 0


BILLION = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MACROS = "macros:\n  m0: xxxxxxxxxx\n" + "".join(f'  m{i + 1}: "{f"${{m{i}}}" * 10}"\n' for i in range(9))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BILLION + "models: {m: {cmd: llama-server -m x}}", "its aliases (*name) repeat more than 16 MiB"),
        ("models: &m {a: *m}", "an alias (*name) stands inside of what it repeats"),
        (MACROS + "models: {m: {cmd: llama-server -m x}}", "the macros insert more than 4 MiB of text"),
        ("models:\n\tm: x", "a tab character; indent with spaces"),
        ("models: [1, 2]", "it has no models"),
        ("models: {m: {path: x.gguf}}", "none of its models has a cmd"),
    ],
)
def test_a_hostile_or_foreign_file_gets_one_sentence_and_status_2(tmp_path, text, says):
    done = convert(tmp_path, text)
    assert (done.exit_code, done.stdout) == (2, "") and says in done.stderr


@pytest.mark.parametrize(
    "odd", [None, True, -7, 1.5, "", "a, b", [1, {}], {"x": [1]}, "0" * 5000, "\u202e", "${env.NOT_SET}"]
)
@pytest.mark.parametrize("key", ["aliases", "env", "ttl", "filters", "macros", "cmd", "name"])
def test_values_of_wrong_types_still_give_a_valid_file(tmp_path, key, odd):
    model = {"cmd": "llama-server -m /x.gguf", key: odd}
    done = convert(
        tmp_path,
        yaml.safe_dump(
            {
                "globalTTL": odd,
                "hooks": odd,
                "selectors": {"s": {"targets": odd}},
                "routing": {"router": {"settings": odd}},
                "models": {"m": model, "n": {"cmd": "llama-server -m /n.gguf"}},
            }
        ),
    )
    assert done.exit_code == 0, done.output
    settings = yaml.safe_load(done.stdout)
    assert valid_part(settings) == (settings, [])


def test_a_repository_that_llama_server_would_fetch_is_fetched_here(tmp_path):
    cmd = "llama-server --port ${PORT} -hf unsloth/Qwen3-8B-GGUF:Q4_K_M"
    done = convert(tmp_path, yaml.dump({"includeAliasesInList": True, "models": {"qwen": {"cmd": cmd}}}))
    settings = yaml.safe_load(done.stdout)
    assert settings["models"]["qwen"]["repo"] == "unsloth/Qwen3-8B-GGUF:Q4_K_M"
    assert settings["catalog"] == {"list_aliases": True, "hugging_face": {"download": "allow"}}
    assert "downloaded into the Hugging Face cache by its first request, or by `pull`" in done.stderr
    without = convert(tmp_path, yaml.dump({"models": {"qwen": {"cmd": "llama-server --port ${PORT} -m /m/qwen.gguf"}}}))
    assert "catalog" not in yaml.safe_load(without.stdout)
