"""What a reload changes, model by model."""

from __future__ import annotations

from dataclasses import replace

from app.entities.configuration import ConfigurationState
from app.entities.model import Replicas
from app.settings.schema import Settings
from app.use_cases.reporting.reload_report import ModelChanges, model_changes
from tests.helpers.builders import a_launch, a_model
from workers.reload import newly_preloaded

A, B = a_model("a"), a_model("b")


def test_equal_catalogues_differ_in_nothing():
    assert model_changes({"a": A, "b": B}, {"b": replace(B), "a": A}) == ModelChanges()


def test_each_model_is_named_once_by_what_happens_to_its_servers():
    before = {"a": A, "b": B, "c": a_model("c"), "d": a_model("d")}
    after = {
        "a": A,
        "b": replace(B, launch=a_launch(ctx_size=8192), pin=True),
        "c": replace(a_model("c"), replicas=Replicas(1, 2)),
        "e": a_model("e"),
    }
    assert model_changes(before, after) == ModelChanges(("e",), ("b",), ("c",), ("d",))


def test_secret_variables_of_a_model_count_as_a_change():
    before, after = replace(A, launch=a_launch(env={"TOKEN": "1"})), replace(A, launch=a_launch(env={"TOKEN": "2"}))
    assert model_changes({"a": before}, {"a": after}).restarted == ("a",)


def test_a_client_without_admin_key_learns_that_a_reload_failed_but_no_names():
    state = ConfigurationState(1.0, errors=("models.secret: unknown key",), needs_restart=("server.port",))
    assert "models.secret" in state.problem
    shown = state.without_details()
    assert shown.problem == "the configuration was not reloaded, the earlier one stays in force: it is invalid"
    assert shown.needs_restart == ()
    assert ConfigurationState(1.0).without_details().problem == ""


def test_a_reload_preloads_what_is_new_or_has_changed_and_nothing_that_was_unloaded_since():
    def settings(**models: bool) -> Settings:
        return Settings(models={name: {"preload": preload} for name, preload in models.items()})  # type: ignore[arg-type]

    before = settings(same=True, flagged=False, changed=True, off=True)
    after = settings(same=True, flagged=True, changed=True, off=False, added=True)
    changes = ModelChanges(added=("added",), restarted=("changed", "off"), updated=("same",))
    assert [*newly_preloaded(before, after, changes)] == ["flagged", "changed", "added"]
