"""Configured models: their files and their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.model import Replicas
from app.entities.placement import PlacementConstraints
from app.entities.request_rules import RequestRules
from app.errors import ModelNotFound
from app.settings.schema import Settings
from tests.catalog.test_hub_cache import cached
from tests.helpers.builders import GGUF_BYTES, a_gguf, a_launch
from workers.build_catalog import build_catalog
from workers.catalog.catalog import Catalog, ConfiguredModel

DEFAULTS, OWN = LaunchSettings(), a_launch(ctx_size=99)


def an_entry(name: str, **fields: object) -> ConfiguredModel:
    return ConfiguredModel(name, OWN, **fields)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Model files in a models_dir, the configuration's folder, another folder and a Hugging Face cache."""
    for file in ("models/a-Q4_K_M.gguf", "models/sub/b.gguf", "conf/c.gguf", "conf/a-Q4_K_M.gguf", "far/d.gguf"):
        a_gguf(tmp_path / file)
    cached(tmp_path / "hub", "u/Foo", "Foo-Q4_K_M.gguf", "Foo-Q8_0.gguf", "mmproj-F16.gguf")
    return tmp_path


def a_catalog(home: Path, *entries: ConfiguredModel, base: bool = True) -> Catalog:
    models, hub = home / "models", home / "hub"
    return Catalog([models], DEFAULTS, hub_cache=hub, entries=entries, base=home / "conf" if base else None)


def listed(catalog: Catalog) -> dict[str, tuple[str, bool]]:
    """Name -> (file name, whether an entry's settings apply)."""
    return {m.name: (Path(m.path).name, m.launch.options.ctx_size == OWN.options.ctx_size) for m in catalog.models()}


FOUND = {
    "a-Q4_K_M": ("a-Q4_K_M.gguf", False),
    "b": ("b.gguf", False),
    "u/Foo:Q4_K_M": ("Foo-Q4_K_M.gguf", False),
    "u/Foo:Q8_0": ("Foo-Q8_0.gguf", False),
}


def test_without_entries_discovered_models_are_listed(home: Path):
    assert listed(a_catalog(home)) == FOUND


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("c.gguf", "conf/c.gguf"),  # below the configuration's folder
        ("a-Q4_K_M.gguf", "conf/a-Q4_K_M.gguf"),  # there first
        ("sub/b.gguf", "models/sub/b.gguf"),  # then below the models_dirs
        ("../far/d.gguf", "far/d.gguf"),
        ("{home}/far/d.gguf", "far/d.gguf"),
        ("~/far/d.gguf", "far/d.gguf"),
    ],
)
def test_a_path_is_relative_to_the_configuration_then_to_the_models_dirs(
    home: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str
):
    monkeypatch.setenv("HOME", str(home))
    catalog = a_catalog(home, an_entry("mine", path=Path(path.format(home=home))))
    assert catalog.find("mine").path == str(home / expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"path": Path("sub/b.gguf")}, "b"),
        ({"repo": "u/Foo:Q8_0"}, "u/Foo:Q8_0"),
        ({"repo": "U/foo:foo-q8_0.gguf"}, "u/Foo:Q8_0"),
        ({"repo": "u/Foo"}, "u/Foo:Q4_K_M"),
    ],
)
def test_a_file_served_by_an_entry_is_listed_once_and_found_by_its_other_names(
    home: Path, fields: dict[str, object], expected: str
):
    catalog = a_catalog(home, an_entry("mine", aliases=("gpt",), ttl_seconds=5.0, **fields))
    rest = {name: model for name, model in FOUND.items() if name != expected}
    assert listed(catalog) == rest | {"mine": (FOUND[expected][0], True)}
    mine = catalog.find("mine")
    assert (mine.aliases, mine.ttl_seconds) == (("gpt",), 5.0)
    assert catalog.find(expected) == catalog.find("gpt") == mine


@pytest.mark.parametrize("name", ["b", "sub/b.gguf", "b.gguf", "u/Foo:Q8_0", "u/foo:q8_0"])
def test_an_entry_without_a_file_configures_the_discovered_model_of_its_name(home: Path, name: str):
    catalog = a_catalog(home, an_entry(name))
    own = "u/Foo:Q8_0" if "oo" in name else "b"
    assert catalog.find(name).launch.options.ctx_size == OWN.options.ctx_size
    assert catalog.find(own) == catalog.find(name)
    assert listed(catalog) == {n: w for n, w in FOUND.items() if n != own} | {name: (FOUND[own][0], True)}


def test_a_file_served_by_several_entries_is_also_listed_by_itself(home: Path, caplog: pytest.LogCaptureFixture):
    path = Path("sub/b.gguf")
    catalog = a_catalog(home, an_entry("long", path=path), an_entry("short", path=path))
    assert listed(catalog) == FOUND | {"long": ("b.gguf", True), "short": ("b.gguf", True)}
    assert catalog.find("b.gguf").name == "b"
    catalog = a_catalog(home, an_entry("b", path=path), an_entry("short", path=path))
    assert catalog.find("b").launch.options.ctx_size == OWN.options.ctx_size
    assert "has the same name" not in caplog.text  # no name is lost


def test_a_configured_name_takes_precedence_and_the_discovered_model_is_named_by_its_path(
    home: Path, caplog: pytest.LogCaptureFixture
):
    catalog = a_catalog(home, an_entry("b", path=Path("c.gguf")), an_entry("x", repo="u/Foo", aliases=("a-Q4_K_M",)))
    assert listed(catalog) == {
        "b": ("c.gguf", True),
        "sub/b": ("b.gguf", False),
        "x": ("Foo-Q4_K_M.gguf", True),
        "u/Foo:Q8_0": FOUND["u/Foo:Q8_0"],
    }
    assert catalog.find("a-Q4_K_M").name == "x"
    assert f"b.gguf is listed as sub/b: {home / 'conf' / 'c.gguf'} has the same name" in caplog.text
    assert "models/a-Q4_K_M.gguf is not served" in caplog.text


def test_names_take_precedence_over_aliases_and_earlier_aliases_over_later_ones(
    home: Path, caplog: pytest.LogCaptureFixture
):
    first = an_entry("first", path=Path("c.gguf"), aliases=("second", "gpt", "gpt", "first"))
    catalog = a_catalog(home, first, an_entry("second", path=Path("../far/d.gguf"), aliases=("gpt", "own")))
    assert {m.name: m.aliases for m in catalog.models() if m.name not in FOUND} == {
        "first": ("gpt",),
        "second": ("own",),
    }
    assert "model first: another model has its aliases second" in caplog.text
    assert "model second: another model has its aliases gpt" in caplog.text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"path": Path("x.gguf")}, "no such file: looked for x.gguf in {home}/conf, {home}/models"),
        ({"path": Path("/nowhere/x.gguf")}, "no such file: /nowhere/x.gguf"),
        ({"path": Path("sub")}, "sub is not a regular file"),
        (
            {"repo": "u/Bar:Q4_K_M"},
            "not in the Hugging Face cache: u/Bar:Q4_K_M; download it with: llama-smart-proxy pull u/Bar:Q4_K_M",
        ),
        ({}, "no such model: looked for mine in {home}/conf, {home}/models, the Hugging Face cache"),
        (
            {"path": Path("c.gguf"), "mmproj": "p.gguf"},
            "mmproj: no such file: looked for p.gguf in {home}/conf, {home}/models",
        ),
        ({"path": Path("c.gguf"), "mmproj": "notes.txt"}, "mmproj: notes.txt is not a GGUF file"),
    ],
)
def test_an_entry_with_a_missing_file_is_listed_with_the_places_searched(
    home: Path, fields: dict[str, object], problem: str
):
    (home / "conf" / "notes.txt").write_text("nothing")
    catalog = a_catalog(home, an_entry("mine", aliases=("gpt",), **fields))
    (mine,) = (model for model in catalog.models() if model.name == "mine")
    assert (mine.problem, mine.aliases) == (problem.format(home=home), ("gpt",))
    assert catalog.find("gpt") == catalog.find("mine") == mine
    assert {name: model for name, model in listed(catalog).items() if name != "mine"} == FOUND


@pytest.mark.parametrize(("name", "near"), [("a-Q4_K_S", "a-Q4_K_M"), ("u/Foo:Q8", "u/Foo:Q8_0"), ("other", None)])
def test_a_similar_name_is_suggested(home: Path, name: str, near: str | None):
    problem = a_catalog(home, an_entry(name)).find(name).problem
    assert problem.partition("; ")[2] == (f"did you mean {near}?" if near else "")


def test_a_repository_without_a_cache_is_a_problem(tmp_path: Path):
    catalog = Catalog([tmp_path], DEFAULTS, entries=[an_entry("mine", repo="u/Foo")])
    assert catalog.find("mine").problem.startswith("the Hugging Face cache is disabled: u/Foo")


@pytest.mark.parametrize(
    ("mmproj", "expected"),
    [("auto", "far/mmproj-F16.gguf"), ("off", None), ("special.gguf", "conf/special.gguf")],
)
def test_an_entry_may_choose_its_projector(home: Path, mmproj: str, expected: str | None):
    a_gguf(home / "far" / "mmproj-F16.gguf", size_bytes=1000)
    a_gguf(home / "conf" / "special.gguf", size_bytes=1000)
    catalog = a_catalog(home, an_entry("mine", path=home / "far" / "d.gguf", mmproj=mmproj))
    mine = catalog.find("mine")
    assert mine.launch.mmproj == (str(home / expected) if expected else None)
    assert mine.size_bytes == GGUF_BYTES + (1000 if expected else 0)


@pytest.mark.parametrize("model", ["models/vl-Q4_0.gguf", "far/vl-Q4_0.gguf"])
def test_an_entry_has_the_same_projector_as_the_discovered_model(home: Path, model: str):
    a_gguf(home / model)
    projector = a_gguf(home / "models" / "elsewhere" / "mmproj-vl-F16.gguf")
    assert a_catalog(home, an_entry("mine", path=home / model)).find("mine").launch.mmproj == str(projector)


def test_repositories_that_differ_only_in_case_are_distinguished(home: Path):
    cached(home / "hub", "U/foo", "foo-Q4_K_M.gguf")
    catalog = a_catalog(home, an_entry("upper", repo="U/foo:Q4_K_M"), an_entry("lower", repo="u/Foo:Q4_K_M"))
    assert {name: file for name, (file, own) in listed(catalog).items() if own} == {
        "upper": "foo-Q4_K_M.gguf",
        "lower": "Foo-Q4_K_M.gguf",
    }


def test_an_entry_may_name_any_part_of_a_split_model_outside_the_folders(home: Path):
    for part in (1, 2):
        a_gguf(home / "far" / f"big-0000{part}-of-00002.gguf")
    catalog = a_catalog(home, an_entry("mine", path=home / "far" / "big-00002-of-00002.gguf"))
    mine = catalog.find("mine")
    assert (mine.path, mine.size_bytes) == (str(home / "far" / "big-00001-of-00002.gguf"), 2 * GGUF_BYTES)


@pytest.mark.parametrize("name", ["no-ending", ".hidden.gguf", "mmproj-alone.gguf"])
def test_an_entry_may_name_a_file_that_a_scan_would_skip(home: Path, name: str):
    a_gguf(home / "far" / name)
    assert a_catalog(home, an_entry("mine", path=home / "far" / name)).find("mine").path == str(home / "far" / name)


def test_hard_links_of_a_file_with_several_entries_keep_their_names(home: Path):
    """The entry called b was found as b, but not as b.gguf: nothing had that name."""
    (home / "models" / "e.gguf").hardlink_to(home / "models" / "sub" / "b.gguf")
    catalog = a_catalog(home, an_entry("e", path="e.gguf"), an_entry("b"))
    for name in ("e", "e.gguf", "b", "b.gguf", "sub/b"):
        assert catalog.find(name).name == name.removesuffix(".gguf").removeprefix("sub/")


def test_a_link_to_the_file_of_an_entry_is_another_name_of_the_entry(home: Path):
    (home / "models" / "link.gguf").symlink_to(home / "far" / "d.gguf")
    catalog = a_catalog(home, an_entry("mine", path=home / "far" / "d.gguf"))
    assert catalog.find("link").name == "mine"
    assert "link" not in listed(catalog)


def test_one_file_under_two_names_with_the_same_settings_is_a_warning_that_proposes_an_alias(home: Path):
    """llama-swap#281: two servers with the same weights."""
    path = home / "far" / "d.gguf"
    different = replace(an_entry("different", path=path), launch=a_launch(ctx_size=7))
    catalog = a_catalog(home, an_entry("one", path=path, aliases=("uno",)), different, an_entry("two", path=path))
    assert catalog.warnings == (
        "models one and two are one file with the same settings, which is loaded once for each: "
        "in their place, set models.one.aliases to [two]",
    )


def test_a_variant_is_another_name_with_rules_of_its_own(home: Path):
    rules = RequestRules(default={"top_k": 20})
    fast = RequestRules(default={"top_k": 5}, set={"temperature": 1})
    entry = an_entry("mine", path=Path("c.gguf"), aliases=("gpt",), requests=rules, variants={"fast": fast, "b": rules})
    catalog = a_catalog(home, entry)
    mine, variant = catalog.find("mine"), catalog.find("fast")
    assert (mine.rules, catalog.find("gpt").rules, variant.rules) == (rules, rules, fast)
    assert (variant.name, catalog.servable(variant).rules) == ("mine", fast)
    assert variant.is_served_as(mine)
    first, _, again = catalog.find("fast"), catalog.find("mine"), catalog.find("fast")
    assert first is again, "until another check of the header"
    assert {model.name for model in catalog.models()} == {*FOUND, "sub/b", "mine"} - {"b"}
    assert "is listed as sub/b: b is a variant of mine" in " ".join(catalog.warnings)


def test_a_variant_of_a_file_that_has_changed_since_it_was_found_keeps_its_rules(home: Path):
    fast = RequestRules(set={"temperature": 1})
    catalog = a_catalog(home, an_entry("mine", path=Path("c.gguf"), variants={"fast": fast}))
    found = catalog.find("fast")
    a_gguf(home / "conf/c.gguf", GGUF_BYTES + 64)
    current = catalog.servable(found)
    assert (current.size_bytes, current.rules) == (GGUF_BYTES + 64, fast)


def test_a_missing_file_keeps_its_variants(home: Path):
    entry = an_entry("mine", path=Path("gone.gguf"), variants={"fast": RequestRules()})
    assert a_catalog(home, entry).find("fast").problem


def test_a_variants_rules_include_those_of_its_model(tmp_path: Path):
    requests = {"default": {"k": {"a": 1, "b": 1}, "top_k": 1}, "set": {"x": 1}, "strip": ["s"]}
    fast = {"default": {"k": {"b": 2}}, "set": {"x": 2}, "strip": ["t"]}
    settings = Settings(models={"m": {"path": tmp_path / "m", "requests": requests, "variants": {"fast": fast}}})
    assert build_catalog(settings).find("fast").rules == RequestRules(
        set={"x": 2}, default={"k": {"a": 1, "b": 2}, "top_k": 1}, strip=frozenset({"s", "t"})
    )


def test_an_entrys_path_is_not_a_name(home: Path):
    catalog = a_catalog(home, an_entry("mine", path=home / "far" / "d.gguf"))
    for name in ("d", "d.gguf", "far/d.gguf", "../far/d.gguf", str(home / "far" / "d.gguf")):
        with pytest.raises(ModelNotFound):
            catalog.find(name)


def test_every_model_has_its_placement_constraints(home: Path):
    settings = Settings(
        catalog={"models_dirs": [home / "models"], "hugging_face": {"cache": str(home / "hub")}},
        defaults={"cpu_moe": "on"},
        models={"mine": {"path": home / "far" / "d.gguf", "gpus": [1]}, "gone": {"path": "x.gguf", "max_gpus": 2}},
    )
    found = PlacementConstraints(has_auto_context=True, has_auto_speculation=True, cpu_moe=True)
    assert {model.name: model.constraints for model in build_catalog(settings).models()} == {
        **dict.fromkeys(FOUND, found),
        "mine": replace(found, gpus=("1",)),
        "gone": replace(found, max_gpus=2),
    }


def test_an_entry_is_served_once_its_file_exists(home: Path):
    catalog = a_catalog(home, an_entry("mine", path=Path("x.gguf")))
    a_gguf(home / "conf" / "x.gguf")
    catalog.reload()
    assert catalog.find("mine").problem == ""


# --- names in other spellings, and globs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("A-q4_k_m", "a-Q4_K_M"),
        ("SUB/B.GGUF", "b"),
        ("u/foo:q8_0", "u/Foo:Q8_0"),
        ("Mine", "mine"),
        ("GPT-4O", "mine"),
        ("caf\u00e9", "cafe\u0301"),  # the file's name is decomposed, as macOS stores it
        ("CAF\u00c9", "cafe\u0301"),
        ("STRASSE", "stra\u00dfe"),
    ],
)
def test_a_name_is_found_in_any_case_and_normal_form(home: Path, name: str, found: str):
    a_gguf(home / "models" / "cafe\u0301.gguf")
    a_gguf(home / "models" / "stra\u00dfe.gguf")
    catalog = a_catalog(home, an_entry("mine", path=Path("c.gguf"), aliases=("gpt-4o",)))
    assert catalog.find(name).name == found


def test_the_exact_spelling_comes_first_then_configured_names_then_the_first_file(home: Path):
    a_gguf(home / "models" / "Twin.gguf")
    a_gguf(home / "models" / "twin.gguf")
    catalog = a_catalog(home, an_entry("B", path=Path("c.gguf")))
    assert [catalog.find(name).name for name in ("Twin", "twin", "TWIN")] == ["Twin", "twin", "Twin"]
    assert [catalog.find(name).name for name in ("b", "B", "sub/B")] == ["b", "B", "b"]


def test_an_entry_without_a_file_finds_its_file_in_another_spelling(home: Path):
    a_gguf(home / "models" / "cafe\u0301.gguf")
    models = a_catalog(home, an_entry("caf\u00e9"), an_entry("A-Q4_K_M")).models()
    assert [model.name for model in models if not model.problem] == [
        "A-Q4_K_M",
        "b",
        "caf\u00e9",
        "u/Foo:Q4_K_M",
        "u/Foo:Q8_0",
    ]


def test_the_most_specific_glob_counts_and_names_come_before_globs(home: Path):
    small = an_entry("small", path=Path("c.gguf"), aliases=("claude-*", "gpt-?", "a-q4*"))
    large = an_entry("large", path=Path("../far/d.gguf"), aliases=("claude-opus-*", "claude-haiku", "*-?"))
    catalog = a_catalog(home, small, large)
    for name, found in {
        "claude-sonnet-5": "small",
        "claude-opus-4-8": "large",
        "Claude-Opus-4-8": "large",
        "claude-haiku": "large",
        "claude-haiku-4": "small",
        "claude-*": "small",
        "claude-opus:latest": "small",
        "gpt-4": "small",
        "x-9": "large",
        "a-Q4_K_M": "a-Q4_K_M",
        "a-q4_k_m": "a-Q4_K_M",
        "a-Q4_K_L": "small",
    }.items():
        assert catalog.find(name).name == found, name
    for name in ("claude", "gpt-40", "xclaude-1x", "claude-" + "x" * 600):
        with pytest.raises(ModelNotFound):
            catalog.find(name)


def test_a_name_means_the_nearest_model_that_the_client_may_use(home: Path):
    small = an_entry("small", path=Path("c.gguf"), aliases=("claude-*",))
    large = an_entry("large", path=Path("../far/d.gguf"), aliases=("claude-opus-*", "claude-haiku"))
    catalog = a_catalog(home, small, large)
    for name in ("claude-opus-4", "claude-haiku", "Claude-Haiku:latest"):
        assert catalog.find(name).name == "large"
        assert catalog.find(name, lambda model: model.name == "small").name == "small"
    with pytest.raises(ModelNotFound):
        catalog.find("large", lambda model: model.name == "small")


def test_brackets_and_dots_of_a_glob_are_ordinary_characters(home: Path):
    catalog = a_catalog(home, an_entry("mine", path=Path("c.gguf"), aliases=("v[12].*",)))
    assert catalog.find("v[12].x").name == "mine"
    for name in ("v1.x", "v[12]x"):
        with pytest.raises(ModelNotFound):
            catalog.find(name)


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("A-Q4_K_M", ""),
        ("gpt", ""),
        ("claude-1", ""),
        ("mime", "catalog.default_model: no model is called mime; did you mean mine?"),
        ("other", "catalog.default_model: no model is called other"),
    ],
)
def test_a_default_model_that_does_not_exist_is_a_warning(home: Path, name: str, warning: str):
    entries = [an_entry("mine", path=Path("c.gguf"), aliases=("gpt", "claude-*"))]
    catalog = Catalog([home / "models"], DEFAULTS, entries=entries, base=home / "conf", default_model=name)
    assert [line for line in catalog.warnings if "default_model" in line] == ([warning] if warning else [])


def test_a_virtual_name_is_found_in_any_spelling_and_its_unknown_models_are_warnings(home: Path):
    any_of = {"fast": ("mine", "a-q4_k_m"), "b": ("mime",)}
    entries = [replace(an_entry("mine", path=Path("c.gguf")), replicas=Replicas(1, 2))]
    catalog = Catalog([home / "models"], DEFAULTS, entries=entries, base=home / "conf", any_of=any_of)
    assert catalog.members("fast") == catalog.members("FAST") == ("mine", "a-q4_k_m")
    assert catalog.members("mine") == a_catalog(home).members("fast") == ()
    assert [catalog.has_replicas(name) for name in ("fast", "b", "mine", "none")] == [True, False, True, False]
    assert [line for line in catalog.warnings if line.startswith("any_of")] == [
        "any_of.b: no model is called mime; did you mean mine?",
        "any_of.b: hides the model b, which has this name",
    ]
