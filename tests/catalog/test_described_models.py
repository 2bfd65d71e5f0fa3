"""Models have the facts of their headers as soon as these have been read."""

from __future__ import annotations

from pathlib import Path

from app.entities.capabilities import Capabilities, Media
from app.entities.launch import LaunchSettings
from tests.helpers.builders import a_gguf
from tests.helpers.gguf_bytes import PROJECTOR, TINY, Info, a_file
from workers.catalog.catalog import Catalog

CHATTING = TINY | {"tokenizer.chat_template": "{{ messages }}", "llama.context_length": 8192}


def a_catalog(folder: Path) -> Catalog:
    return Catalog([folder], LaunchSettings())


def test_a_scan_reads_no_facts(tmp_path: Path):
    a_gguf(tmp_path / "a.gguf")
    (model,) = a_catalog(tmp_path).models()
    assert (model.facts, model.capabilities) == (None, None)


def test_facts_are_read_for_a_list_and_before_a_load(tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(a_file(CHATTING))
    catalog = a_catalog(tmp_path)
    loaded = catalog.servable(catalog.find("a"))
    listed = a_catalog(tmp_path)
    for model in (loaded, catalog.find("a"), *listed.read_headers(listed.models(), 10.0)):
        assert model.facts is not None
        assert (model.facts.context_tokens, model.facts.parameters) == (8192, 8)
        assert model.capabilities == Capabilities(completion=True, chat=True)


def test_reading_ends_when_the_time_is_up(tmp_path: Path):
    for name in "abc":
        a_gguf(tmp_path / f"{name}.gguf")
    catalog = a_catalog(tmp_path)
    catalog.read_headers(catalog.models(), 0.0)
    assert [model.facts is not None for model in catalog.models()] == [True, False, False]


def test_a_broken_model_can_do_nothing(tmp_path: Path):
    """One whose header is damaged, and one that a scan rejects."""
    (tmp_path / "damaged.gguf").write_bytes(a_file(TINY | {"llama.block_count": 0}))
    (tmp_path / "empty.gguf").touch()
    catalog = a_catalog(tmp_path)
    catalog.read_headers(catalog.models(), 10.0)
    assert [(model.name, model.capabilities) for model in catalog.models()] == [
        ("damaged", Capabilities()),
        ("empty", Capabilities()),
    ]


def test_a_changed_file_has_other_facts(tmp_path: Path):
    path = tmp_path / "a.gguf"
    path.write_bytes(a_file(CHATTING))
    catalog = a_catalog(tmp_path)
    catalog.read_headers(catalog.models(), 10.0)
    path.write_bytes(a_file(CHATTING | {"llama.context_length": 4096, "general.name": "changed"}))
    catalog.reload()
    assert catalog.find("a").facts is None
    catalog.read_headers(catalog.models(), 10.0)
    facts = catalog.find("a").facts
    assert facts is not None
    assert facts.context_tokens == 4096


def test_the_same_model_is_the_same_object_until_something_is_learned(tmp_path: Path):
    a_gguf(tmp_path / "a.gguf")
    catalog = a_catalog(tmp_path)
    before = catalog.find("a")
    catalog.read_headers(catalog.models(), 10.0)
    assert catalog.find("a") is catalog.find("a")
    assert catalog.find("a") == before


def test_a_model_takes_what_its_projector_takes(tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(a_file(CHATTING))
    (tmp_path / "mmproj-a.gguf").write_bytes(a_file(PROJECTOR | {"clip.has_vision_encoder": True}, (Info(),)))
    catalog = a_catalog(tmp_path)
    assert catalog.find("a").media == {Media.IMAGE}
    catalog.read_headers(catalog.models(), 10.0)
    capabilities = catalog.find("a").capabilities
    assert capabilities is not None
    assert capabilities.vision
