"""The list of models."""

from __future__ import annotations

from app.use_cases.reporting.report import model_list
from tests.helpers.builders import Play, a_model, replace


def test_aliases_are_ids_of_their_own_if_wanted_and_globs_never():
    models = [replace(a_model("a"), aliases=("gpt-4o", "claude-*")), a_model("b")]
    pool = Play().state
    assert [entry["id"] for entry in model_list(models, pool, None)["data"]] == ["a", "b"]
    a, alias, b = model_list(models, pool, None, with_aliases=True)["data"]
    assert (a["id"], alias["id"], b["id"]) == ("a", "gpt-4o", "b")
    assert alias == {**a, "id": "gpt-4o", "aliases": [], "parent": "a"}
