"""Changes of behaviour that a configuration relies on are announced once, and never to a new installation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.entities.launch import AUTO_UBATCH
from app.entities.model import Model, ModelSource
from app.entities.placement import PlacementConstraints
from app.settings.changes import CHANGES
from app.settings.schema import Settings
from tests.helpers.builders import a_launch, a_model, replace
from workers.upgrade_notices import FILE, warn_of_changes

HASH = "0" * 64
AUTO = PlacementConstraints(has_auto_context=True)
SEES = replace(a_model("sees"), launch=replace(a_launch(), mmproj="/models/mmproj.gguf"))


def notices(models: tuple[Model, ...] = (), **settings: Any) -> dict[str, str]:
    """Of the changes that a configuration shows its reliance on."""
    settings = {"catalog": {"load_on_any_path": False}, "defaults": {"load_mode": "mmap"}} | settings
    found = {change.name: change.notice(Settings(**settings), models) for change in CHANGES}
    return {name: notice.partition(":")[0] for name, notice in found.items() if notice}


def with_args(*args: str) -> Model:
    return replace(a_model("m"), launch=replace(a_launch(), args=args))


def test_the_defaults_rely_on_nothing():
    assert notices((a_model(), with_args("--verbose"))) == {}


def test_only_a_configuration_that_says_so_decides_about_unknown_paths():
    """No configuration shows whether clients have used them."""
    assert notices((a_model(),), catalog={}) == {"load-on-any-path": "requests on paths that are not inference routes"}
    assert notices((), catalog={}) == {}
    assert notices((a_model(),), catalog={"load_on_any_path": True}) == {}


def test_a_model_with_a_projector_may_have_had_urls():
    assert notices((SEES, a_model())) == {"media-urls": "model sees"}
    for decided in ("data", "http", ["example.com"]):
        assert notices((SEES,), upstream={"media_urls": decided}) == {}


def test_keys_of_some_models_see_less():
    keys = [{"name": "all", "sha256": HASH}, {"name": "few", "sha256": HASH[1:] + "1", "models": ["qwen*"]}]
    assert notices(keys=keys) == {"limited-keys": "key few"}


def test_models_that_were_started_to_embed_have_larger_batches():
    for args in (("--embeddings",), ("--embedding", "--pooling", "cls"), ("--reranking",)):
        model = with_args(*args)
        automatic = replace(model.launch.options, ubatch_size=AUTO_UBATCH)
        assert notices((replace(model, launch=replace(model.launch, options=automatic)),)) == {
            "embedding-batches": "model m"
        }
        assert notices((model,)) == {}, "its ubatch_size is set"


@pytest.mark.parametrize("args", [("--lora", "x.gguf"), ("--props",), ("--slot-save-path=/x",)])
def test_routes_that_became_an_admins(args: tuple[str, ...]):
    key = {"name": "all", "sha256": HASH}
    assert notices((with_args(*args),), keys=[key]) == {"admin-routes": "model m"}
    assert notices((with_args(*args),), keys=[{**key, "admin": True}]) == {}
    assert notices((with_args(*args),)) == {}, "without keys they are open"


def test_models_of_other_programs_are_served_too():
    models = tuple(replace(a_model(source.value), source=source) for source in ModelSource)
    assert notices(models) == {"other-programs": "models lm_studio, ollama"}
    decided = {"load_on_any_path": False, "ollama": "auto"}
    assert notices(models, catalog=decided) == {"other-programs": "model lm_studio"}
    assert notices(models, catalog={**decided, "lm_studio": "off"}) == {}
    assert notices(models[-1:] * 6) == {"other-programs": "6 models of Ollama and LM Studio"}


def test_more_checkpoints_may_be_far_above_the_booking():
    models = (with_args("--ctx-checkpoints", "500"),)
    assert notices(models) == {"excess-memory": "model m"}
    assert notices(models, scheduling={"max_excess_memory": None}) == {}


def test_automatic_contexts_are_longer():
    automatic = [replace(a_model(f"m{number}"), constraints=AUTO) for number in range(6)]
    assert notices((*automatic[:2], a_model())) == {"automatic-context": "models m0, m1"}
    assert notices(tuple(automatic)) == {"automatic-context": "6 models with ctx_size auto"}


def test_larger_ubatches_are_no_longer_reduced():
    def with_ubatch(name: str, tokens: int) -> Model:
        options = replace(a_launch().options, ubatch_size=tokens)
        return replace(a_model(name), launch=replace(a_launch(), options=options))

    assert notices((with_ubatch("a", 2049), with_ubatch("b", 2048))) == {"large-ubatches": "model a"}
    many = tuple(with_ubatch(str(number), 4096) for number in range(6))
    assert notices(many) == {"large-ubatches": "6 models with a ubatch_size above 2048"}


def test_models_on_gpus_are_no_longer_mapped():
    in_ram = replace(a_model("b"), launch=replace(a_launch(), options=replace(a_launch().options, n_gpu_layers=0)))
    assert notices((a_model("a"), in_ram, with_args("--no-mmap")), defaults={}) == {"load-mode": "model a"}


def test_aliases_became_globs():
    aliases = {"a": ["gpt-*"], "b": ["gpt-5", "[x]"], "c": ["x?"]}
    models = tuple(replace(a_model(name), aliases=tuple(found)) for name, found in aliases.items())
    assert notices(models) == {"alias-globs": "models a, c"}


def test_agents_of_the_originals_configuration_are_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.settings.schema.installed_agents", lambda: {"rag": None})
    assert notices(agents=["rag"]) == {"agents": "agent rag"}


def test_a_change_is_announced_at_the_first_start_after_an_upgrade(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "history.sqlite3").touch()  # of an earlier release
    warn_of_changes(tmp_path, Settings(), [SEES])
    assert "model sees: http: URLs of images" in caplog.text
    caplog.clear()
    warn_of_changes(tmp_path, Settings(), [SEES, replace(SEES, name="another")])
    assert caplog.text == ""
    (tmp_path / FILE).write_text("not JSON")
    warn_of_changes(tmp_path, Settings(), [SEES])
    assert "model sees" in caplog.text


def test_a_new_installation_has_no_earlier_behaviour(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    warn_of_changes(tmp_path / "new", Settings(), [SEES])
    (tmp_path / "new" / "history.sqlite3").touch()
    warn_of_changes(tmp_path / "new", Settings(), [SEES])
    assert caplog.text == ""
    assert json.loads((tmp_path / "new" / FILE).read_text()) == sorted(change.name for change in CHANGES)


def test_a_state_directory_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").touch()
    warn_of_changes(tmp_path / "file", Settings(), [])
    assert "will be again" in caplog.text


@pytest.mark.parametrize("damage", [b"\xff\xfe[", b"[" * 100_000, b"7"])
def test_a_damaged_file_of_notices_is_written_anew(tmp_path: Path, damage: bytes):
    (tmp_path / FILE).write_bytes(damage)
    warn_of_changes(tmp_path, Settings(), [])
    assert json.loads((tmp_path / FILE).read_text()) == sorted(change.name for change in CHANGES)
