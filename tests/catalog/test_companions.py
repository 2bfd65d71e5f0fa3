"""Files beside a model that are none: projectors, draft heads, adapters, importance matrices, by their headers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.entities.launch import LaunchSettings
from app.errors import InvalidModelFile, ModelNotFound
from app.use_cases.launch.parsed_args import companion_paths
from tests.catalog.test_hub_cache import cached
from tests.helpers.builders import a_launch
from tests.helpers.gguf_bytes import PROJECTOR, TINY, Info, a_file
from workers.catalog.catalog import Catalog, ConfiguredModel
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import GgufFile, inspect_file
from workers.catalog.model_files import LoraAdapter, group_files

TOKENS = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b"]}


def a_model(width: int = 64) -> bytes:
    return a_file(TINY | {"llama.embedding_length": width} | TOKENS)


def a_projector(width: int = 64) -> bytes:
    return a_file(PROJECTOR | {"clip.projector_type": "mlp"}, [Info("mm.2.weight", (8, width))])


def with_mtp(*blocks: int) -> bytes:
    """Blocks of a model of three, the last of which is for multi-token prediction."""
    metadata = {"general.architecture": "qwen35", "qwen35.block_count": 3, "qwen35.embedding_length": 64}
    infos = [Info("token_embd.weight"), *(Info(f"blk.{block}.attn_norm.weight") for block in blocks)]
    return a_file(metadata | {"qwen35.nextn_predict_layers": 1} | TOKENS, infos)


def of_architecture(name: str) -> bytes:
    return a_file({"general.architecture": name, f"{name}.block_count": 4, f"{name}.embedding_length": 64} | TOKENS)


COMPANIONS: Mapping[str, bytes] = {
    "assistant": of_architecture("gemma4-assistant"),
    "eagle": of_architecture("eagle3"),
    "dflash": of_architecture("dflash"),
    "mtp": with_mtp(2),
    "adapter": a_file(TINY | {"general.type": "adapter"}),
    "imatrix": a_file({"general.type": "imatrix"}),
    "control vector": a_file({"general.architecture": "controlvector"}),
}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def a_catalog(folder: Path, *entries: ConfiguredModel) -> Catalog:
    return Catalog([folder], LaunchSettings(), entries=entries)


def listed(folder: Path, *entries: ConfiguredModel) -> dict[str, str | None]:
    """Model -> the name of its projector."""
    models = a_catalog(folder, *entries).models()
    return {model.name: model.launch.mmproj and Path(model.launch.mmproj).name for model in models}


def draft_heads(catalog: Catalog) -> dict[str, set[str]]:
    return {model.name: {Path(path).name for path in model.draft_heads} for model in catalog.models()}


# --- folders as in the reports -----------------------------------------------------------------------------------


def test_what_is_beside_a_model_is_not_listed_and_does_not_take_its_projector(tmp_path: Path):
    model = "gemma-4-E4B-it-Q4_K_M"
    write(
        tmp_path,
        {
            f"{model}.gguf": a_model(),
            "mmproj-F16.gguf": a_projector(),
            "mtp-gemma-4-E4B-it.gguf": COMPANIONS["assistant"],
            "gemma-4-E4B-it-Q8_0-MTP.gguf": COMPANIONS["assistant"],
            "Qwen-draft.gguf": COMPANIONS["dflash"],
            "imatrix-gemma.gguf": COMPANIONS["imatrix"],
            "my-style.gguf": COMPANIONS["adapter"],
        },
    )
    assert listed(tmp_path) == {model: "mmproj-F16.gguf"}
    assert draft_heads(a_catalog(tmp_path)) == {model: {"mtp-gemma-4-E4B-it.gguf", "gemma-4-E4B-it-Q8_0-MTP.gguf"}}, (
        "by their names; whether one fits is decided before a load"
    )


def test_a_model_with_its_own_mtp_layers_is_a_model_and_those_alone_are_not(tmp_path: Path):
    write(
        tmp_path,
        {
            "Qwen3.6-27B-MTP-Q4_K_M.gguf": with_mtp(0, 1, 2),
            "Qwen3.6-27B-Q4_K_M.gguf": with_mtp(0, 1),
            "mtp-Qwen3.6-27B-Q4_0.gguf": with_mtp(2),
            "mmproj-Qwen3.6-27B-BF16.gguf": a_projector(),
        },
    )
    projector = "mmproj-Qwen3.6-27B-BF16.gguf"
    assert listed(tmp_path) == {"Qwen3.6-27B-MTP-Q4_K_M": projector, "Qwen3.6-27B-Q4_K_M": projector}


def test_a_name_in_the_cache_never_means_a_companion(tmp_path: Path):
    """llama.cpp#24623: the repository's Q8_0 was its MTP head."""
    repo = "unsloth/gemma-4-E4B-it-GGUF"
    files = ("MTP/gemma-4-E4B-it-Q8_0-MTP.gguf", "gemma-4-E4B-it-UD-Q4_K_XL.gguf", "mmproj-BF16.gguf", "a-imatrix.gguf")
    contents = (COMPANIONS["assistant"], a_model(), a_projector(), COMPANIONS["imatrix"])
    snapshot = cached(tmp_path, repo, *files)
    for file, content in zip(files, contents, strict=True):
        (snapshot / file).resolve().write_bytes(content)
    catalog = Catalog([], LaunchSettings(), hub_cache=tmp_path)
    assert draft_heads(catalog) == {f"{repo}:UD-Q4_K_XL": {"gemma-4-E4B-it-Q8_0-MTP.gguf"}}
    assert catalog.find(repo) == catalog.find(f"{repo}:Q4_K_XL") == catalog.models()[0]
    assert catalog.find(repo).launch.mmproj == str(snapshot / "mmproj-BF16.gguf")
    for name in (f"{repo}:Q8_0", f"{repo}:MTP", f"{repo}:gemma-4-E4B-it-Q8_0-MTP", f"{repo}:BF16"):
        with pytest.raises(ModelNotFound):
            catalog.find(name)


def test_a_projector_of_another_width_is_left_off_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """mistral.rs#2421: a text model with a foreign projector in its folder could not be loaded."""
    write(tmp_path, {"text-Q4_K_M.gguf": a_model(128), "mmproj-F16.gguf": a_projector(64)})
    catalog = a_catalog(tmp_path)
    catalog.reload()
    line = (
        f"model text-Q4_K_M is served without {tmp_path}/mmproj-F16.gguf: "
        "mmproj-F16.gguf makes embeddings of 64 values, text-Q4_K_M takes 128"
    )
    assert catalog.find("text-Q4_K_M").launch.mmproj is None
    assert catalog.warnings == (line,)
    assert caplog.text.count(line) == 1


def test_of_two_projectors_the_one_that_fits_is_used(tmp_path: Path):
    write(
        tmp_path,
        {
            "vl-Q4_K_M.gguf": a_model(128),
            "mmproj-F16.gguf": a_projector(64),
            "mmproj-Q8_0.gguf": a_projector(128),
            "elsewhere/vl.gguf": a_model(64),
            "elsewhere/mmproj-F16.gguf": a_projector(128),
            "third/mmproj-vl-F16.gguf": a_projector(64),
        },
    )
    assert listed(tmp_path) == {"vl-Q4_K_M": "mmproj-Q8_0.gguf", "vl": "mmproj-vl-F16.gguf"}


def test_a_quantization_with_an_importance_matrix_finds_its_models_projector(tmp_path: Path):
    """MyLlama#39."""
    write(tmp_path, {"X.i1-Q4_K_M.gguf": a_model(), "other-Q4_K_M.gguf": a_model(), "X.mmproj-f16.gguf": a_projector()})
    assert listed(tmp_path) == {"X.i1-Q4_K_M": "X.mmproj-f16.gguf", "other-Q4_K_M": None}


# --- what an entry asks for --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPANIONS)
def test_an_entry_for_a_companion_is_listed_and_says_why_it_cannot_be_served(tmp_path: Path, kind: str):
    write(tmp_path, {"it.gguf": COMPANIONS[kind], "model.gguf": a_model()})
    catalog = a_catalog(tmp_path, ConfiguredModel("mine", LaunchSettings(), path=Path("it.gguf")))
    assert [model.name for model in catalog.models()] == ["mine", "model"]
    assert re.match(r"it\.gguf is an? .*, not a model", catalog.find("mine").problem), "a start and check-config warn"
    with pytest.raises(InvalidModelFile, match=r"it\.gguf is an? .*, not a model"):
        catalog.servable(catalog.find("mine"))


@pytest.mark.parametrize("file", ["MTP/head.gguf", "head.gguf", "head"])
def test_an_entry_for_a_companion_in_the_cache_says_why_it_cannot_be_served(tmp_path: Path, file: str):
    (cached(tmp_path, "u/Foo", "MTP/head.gguf") / "MTP" / "head.gguf").resolve().write_bytes(COMPANIONS["mtp"])
    entries = [
        ConfiguredModel("mine", LaunchSettings(), repo=f"u/Foo:{file}"),
        ConfiguredModel("u/Foo", LaunchSettings()),
    ]
    catalog = Catalog([], LaunchSettings(), hub_cache=tmp_path, entries=entries)
    with pytest.raises(InvalidModelFile, match=r"head\.gguf is a draft head, not a model"):
        catalog.servable(catalog.find("mine"))
    assert "no such model" in catalog.find("u/Foo").problem


def test_a_projector_that_an_entry_names_must_fit(tmp_path: Path):
    write(tmp_path, {"m.gguf": a_model(128), "eyes.gguf": a_projector(64), "good.gguf": a_projector(128)})
    entries = [
        ConfiguredModel(name, LaunchSettings(), Path("m.gguf"), mmproj=f"{name}.gguf") for name in ("eyes", "good")
    ]
    catalog = a_catalog(tmp_path, *entries)
    assert catalog.find("good").problem == ""
    assert catalog.find("eyes").problem == "mmproj: eyes.gguf makes embeddings of 64 values, m takes 128"


def test_adapters_that_an_entry_names_are_loaded_with_it(tmp_path: Path):
    write(tmp_path, {"m.gguf": a_model(), "a.gguf": COMPANIONS["adapter"], "b.gguf": COMPANIONS["adapter"]})
    lora = (LoraAdapter("a.gguf"), LoraAdapter("b.gguf", 0.5))
    entry = ConfiguredModel("m", LaunchSettings(), Path("m.gguf"), lora=lora, keep_kv_cache=True)
    model = a_catalog(tmp_path, entry).find("m")
    assert not model.keep_kv_cache, "a saved slot does not say under which scales it was computed"
    a, b = tmp_path / "a.gguf", tmp_path / "b.gguf"
    assert (model.problem, model.launch.args) == ("", ("--lora", str(a), "--lora-scaled", f"{b}:0.5"))
    paths = companion_paths(model.launch)
    assert paths.adapters == (str(a), str(b)), "they are booked"
    assert model.requests.default == {"lora": [{"id": 0, "scale": 1.0}, {"id": 1, "scale": 0.5}]}


@pytest.mark.parametrize(
    ("path", "problem"),
    [("m.gguf", "lora: m.gguf is no adapter"), ("none.gguf", "lora: no such file: looked for none.gguf in ")],
)
def test_what_is_no_adapter_is_said_beforehand(tmp_path: Path, path: str, problem: str):
    write(tmp_path, {"m.gguf": a_model()})
    entry = ConfiguredModel("m", LaunchSettings(), Path("m.gguf"), lora=(LoraAdapter(path),))
    assert a_catalog(tmp_path, entry).find("m").problem.startswith(problem)


OTHER_ENTRIES = {"tiny": "files/small.gguf", "gone": "gone.gguf"}


@pytest.mark.parametrize(
    ("draft", "kind", "problem"),
    [
        ("small", "draft-simple", ""),
        ("tiny", "draft-simple", ""),
        ("files/small.gguf", "draft-simple", ""),
        ("head.gguf", "draft-eagle3", ""),
        ("gone", "draft-simple", "speculative: no such file: looked for gone.gguf in "),
        ("head.gguf", "draft-simple", "speculative: head.gguf is a draft head: set the type, such as draft-eagle3 or"),
        ("a.gguf", "draft-simple", "speculative: a.gguf is an adapter, not a model"),
        ("none", "draft-simple", "speculative: no model has this name, and no such file: looked for none in "),
    ],
)
def test_a_draft_is_a_model_by_name_or_a_file(tmp_path: Path, draft: str, kind: str, problem: str):
    adapter, head = COMPANIONS["adapter"], COMPANIONS["eagle"]
    write(tmp_path, {"m.gguf": a_model(), "files/small.gguf": a_model(), "a.gguf": adapter, "head.gguf": head})
    launch = a_launch(speculation=kind)
    others = (ConfiguredModel(name, a_launch(), Path(file)) for name, file in OTHER_ENTRIES.items())
    model = a_catalog(tmp_path, ConfiguredModel("m", launch, Path("m.gguf"), draft=draft), *others).find("m")
    assert model.problem.startswith(problem) and bool(model.problem) == bool(problem)
    if not problem:
        file = "head.gguf" if draft == "head.gguf" else "files/small.gguf"
        assert companion_paths(model.launch).draft == str(tmp_path / file)


# --- header, not name --------------------------------------------------------------------------------------------

NAMES = [
    *("mtp-{}.gguf", "{}-MTP.gguf", "{}-Q8_0-MTP.gguf", "eagle3-{}.gguf", "dflash-{}-Q4_0.gguf", "{}-draft.gguf"),
    *("imatrix-{}.gguf", "{}.imatrix.gguf", "mmproj-{}-F16.gguf", "{}.mmproj-f16.gguf", "{}-lora-F16.gguf", "{}.gguf"),
]


@pytest.mark.parametrize("name", NAMES)
def test_whatever_its_name_a_model_is_listed_and_a_companion_is_not(tmp_path: Path, name: str):
    write(tmp_path / "models", {name.format("x-7B"): a_model()})
    assert len(listed(tmp_path / "models")) == 1
    for kind, content in COMPANIONS.items():
        write(tmp_path / kind, {name.format("x-7B"): content})
        assert listed(tmp_path / kind) == {}, kind


@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True),
    kinds=st.lists(st.sampled_from(["model", "projector", *COMPANIONS]), min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_companions_change_nothing_for_models_in_any_mix_of_names(
    names: list[str], kinds: list[str], tmp_path_factory: pytest.TempPathFactory
):
    """The models and their projectors are the same with and without the other files."""
    contents = {"model": a_model(), "projector": a_projector()} | COMPANIONS
    folder = tmp_path_factory.mktemp("mix")
    files = {name.format("x-7B"): kind for name, kind in zip(names, kinds, strict=False)}
    write(folder, {name: contents[kind] for name, kind in files.items()})

    def grouped(kept: list[str]) -> dict[str, str | None]:
        inspected: list[GgufFile] = [inspect_file(str(folder / name), FileSummaries(), name) for name in sorted(kept)]
        return {each.name: each.projector and each.projector.name for each in group_files(inspected, [])}

    plain = [name for name, kind in files.items() if kind in ("model", "projector")]
    assert grouped(list(files)) == grouped(plain)
    assert len(grouped(list(files))) == sum(kind == "model" for kind in files.values())


def test_the_architectures_keys_may_come_after_the_tokenizers(tmp_path: Path):
    late = TOKENS | {"general.architecture": "eagle3", "eagle3.block_count": 1, "eagle3.embedding_length": 64}
    write(tmp_path, {"late.gguf": a_file(late), "never.gguf": a_file(TOKENS | TINY)})
    assert list(listed(tmp_path)) == ["never"]


def test_a_file_that_cannot_be_read_is_judged_by_its_name(tmp_path: Path):
    names = ("mtp-x.gguf", "mmproj-x.gguf", "imatrix.gguf", "x.gguf")
    write(tmp_path, dict.fromkeys(names, b"") | {"mtp-cut.gguf": a_model()[:40]})
    assert list(listed(tmp_path)) == ["x"]


@pytest.mark.parametrize("mtp_layers", [0, 1])
def test_a_scan_reads_a_few_kilobytes_of_a_large_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mtp_layers: int
):
    """Also of a model with MTP layers: it has too many tensors to be those layers alone."""
    large = {"llama.embedding_length": 64, "llama.nextn_predict_layers": mtp_layers, "tokenizer.ggml.model": "gpt2"}
    tokens = {"tokenizer.ggml.tokens": [f"token {number}" for number in range(20_000)]}
    infos = [Info(f"blk.{layer}.{number}") for layer in range(3) for number in range(6)]
    content = a_file(TINY | {"llama.block_count": 3} | large | tokens, infos)
    write(tmp_path, {f"{number}.gguf": content for number in range(5)})
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr("os.pread", lambda *arguments: read.append(len(got := pread(*arguments))) or got)
    assert len(listed(tmp_path)) == 5
    assert sum(read) <= 5 * 8192


def test_kinds_are_kept_between_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, {"m.gguf": a_model(), "mtp.gguf": COMPANIONS["mtp"], "mmproj-m.gguf": a_projector()})
    catalog = a_catalog(tmp_path)
    monkeypatch.setattr("workers.catalog.file_summaries._read_summary", lambda path, _: pytest.fail(path))
    before = catalog.models()
    catalog.reload()
    assert catalog.models() == before and catalog.warnings == ()
