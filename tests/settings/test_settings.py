"""Settings: sources, meaning, and error messages."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import fields, replace
from pathlib import Path
from unittest import mock

import pytest
import yaml
from pydantic import ByteSize

from app.entities.download_policy import DownloadPolicy, DownloadRule
from app.entities.key import ApiKey
from app.entities.launch import ALL_LAYERS, AUTO_PROMPT_CACHE, AUTO_UBATCH, LoadMode, ModelOptions, Task
from app.entities.media_urls import DATA_ONLY, MediaUrls
from app.entities.memory import Confidence
from app.entities.placement import GpuLimits, PlacementConstraints, Policy, Strategy
from app.settings.configuration import (
    OPEN_WITHOUT_KEYS,
    PREFIX,
    Configuration,
    ConfigurationError,
    load_settings,
    read_configuration,
    variable_names,
)
from app.settings.denied_options import why_argument_denied, why_variable_denied
from app.settings.schema import Settings
from app.settings.schema_keys import format_place, is_section, section_in
from app.settings.sections.model import ModelSettings
from app.settings.sections.model_defaults import ModelDefaults
from app.settings.values import size_text
from app.settings.warnings import settings_warnings
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.placement.contexts import STEPS
from bench.estimate import shape_of
from tests.helpers.builders import a_launch

EXAMPLE = Path(__file__).resolve().parents[2] / "config.example.yaml"
SECRET = "sk-sesame-open"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()
URL_EXPECTED = "must begin with http:// or https:// and a host name"
ORIGINS = "write https://chat.example.org, or * for any"
BAD_PEER = "a peer's name has letters, digits, `.`, `_` and `-` only: it is the part before the `/`"
BAD_NAME = "a name must have 1 to 512 printable characters, without leading or trailing spaces"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def configured(folder: Path, text: str | bytes = "", name: str = "config.yaml", **variables: str) -> Settings:
    """The settings from a file with this text and these environment variables."""
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(
        {PREFIX + variable: value for variable, value in variables.items()} | {PREFIX + "CONFIG": str(file)}
    ).settings


def read(environ: dict[str, str]) -> Configuration:
    with mock.patch.dict(os.environ, environ):
        return read_configuration()


def error_messages(folder: Path, text: str | bytes = "", name: str = "config.yaml", **variables: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        configured(folder, text, name, **variables)
    return [line.replace(f"{folder}/", "") for line in refused.value.lines]


# --- sources ----------------------------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults(tmp_path):
    for text in ("", "# only a comment\n", "server:\nkeys:\nmodels:\ncatalog: {hugging_face: }\n"):
        assert configured(tmp_path, text).model_dump() == load_settings().model_dump() == Settings().model_dump()


def test_the_environment_overrides_the_file(tmp_path):
    settings = configured(tmp_path, "server: {port: 8, host: '::1'}", SERVER__PORT="9")
    assert (settings.server.port, settings.server.host) == (9, "::1")


def test_maps_are_merged_and_lists_replaced(tmp_path):
    text = "models: {a: {parallel: 2, aliases: [x]}, b: {}}\nengine: {args: [--jinja]}"
    variables = {"MODELS": '{"a": {"aliases": ["y"]}, "c": null}', "ENGINE__ARGS": '["--mlock"]'}
    settings = configured(tmp_path, text, **variables)
    assert (sorted(settings.models), settings.models["a"].parallel) == (["a", "b", "c"], 2)
    assert (settings.models["a"].aliases, settings.engine.args) == (["y"], ["--mlock"])


def test_media_urls_are_a_word_or_a_list_of_hosts(tmp_path):
    def allowed(text: str = "", **variables: str) -> MediaUrls:
        return configured(tmp_path, text, **variables).upstream.allowed_media_urls()

    hosts = MediaUrls(hosts=frozenset({"a.example", "[::1]:80"}))
    assert allowed() == allowed("upstream: {media_urls: data}") == allowed("upstream: {media_urls: []}") == DATA_ONLY
    assert allowed(UPSTREAM__MEDIA_URLS="http") == MediaUrls(any_host=True)
    assert allowed("upstream: {media_urls: [A.example, '[::1]:80']}") == hosts
    assert allowed(UPSTREAM__MEDIA_URLS='["a.example", "[::1]:80"]') == hosts
    for wrong in ("[http://a.example]", "[a/b]", "https", "['*.example']", "[x@y]"):
        assert "upstream.media_urls" in error_messages(tmp_path, f"upstream: {{media_urls: {wrong}}}")[0]


def test_a_key_written_without_a_space_before_its_value_is_not_shown_with_it(tmp_path):
    (missing, unknown) = error_messages(tmp_path, f"keys:\n- {{name: a, sha256:{SECRET}}}")
    assert (missing, unknown) == (
        "config.yaml: keys[0].sha256: is missing",
        "config.yaml: keys[0].sha256:: unknown key; a space is missing after its colon",
    )


def test_json_is_accepted(tmp_path):
    tabs_and_all = '{\n\t"server": {"max_body": "1MiB"}, "defaults": {"flash_attn": false}}'
    settings = configured(tmp_path, tabs_and_all, "c.conf")
    assert (settings.server.max_body, settings.defaults.flash_attn) == (2**20, "off")


def test_on_and_off_are_strings(tmp_path):
    text = "defaults: {flash_attn: on}\ncatalog: {hugging_face: {cache: off}}\nengine: {env: {A: yes}}"
    settings = configured(tmp_path, text + "\nmodels: {m: {mmproj: off}}")
    assert settings.defaults.flash_attn == "on"
    assert settings.catalog.hugging_face.cache == settings.models["m"].mmproj == "off"
    assert settings.engine.env == {"A": "yes"}


@pytest.mark.parametrize(
    ("text", "value"), [("off", "off"), ("on", "on"), ("allow", "allow"), ("false", "off"), ("'on'", "on"), ("", "off")]
)
def test_what_requests_may_download_needs_no_quotes(tmp_path, text, value):
    """YAML 1.1 reads an unquoted off as false."""
    field = f"download: {text}, " if text else ""
    settings = configured(tmp_path, f"catalog: {{hugging_face: {{{field}allow: ['ggml-org/*']}}}}")
    assert settings.catalog.hugging_face.download == value
    assert settings.catalog.hugging_face.policy() == DownloadPolicy(DownloadRule(value), ("ggml-org/*",))


def test_null_in_the_environment_is_none(tmp_path):
    assert (
        configured(tmp_path, "scheduling: {max_loaded: 2}", SCHEDULING__MAX_LOADED="null").scheduling.max_loaded is None
    )


# --- broken files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("server: [", "c.yaml", "c.yaml: line 1, column 10: expected the node content, but found '<stream end>'"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "c.yaml", "c.yaml: line 4: duplicate key 'c', first in line 3"),
        ('{"a": {\n"b": 1,\n\t"b": 2}}', "c.json", "c.json: line 3: duplicate key 'b', first in line 2"),
        ('{"a": 1 "b": 2}', "c.json", "c.json: line 1, column 9: Expecting ',' delimiter"),
        ("- server", "c.yaml", "c.yaml: must be a mapping of keys to values"),
        ("models: {3: {}}", "c.yaml", "c.yaml: line 1: a key is not a string; put it in quotes"),
        ("server: {}".encode("utf-16"), "c.yaml", "c.yaml: not UTF-8 text (byte 0)"),
        ("a: \x07", "c.yaml", "c.yaml: character 3 is not allowed in YAML"),
        ("[" * 5000, "c.yaml", "c.yaml: too deeply nested"),
        (b" " * (4 * 1024**2 + 1), "c.yaml", "c.yaml: larger than 4 MiB"),
    ],
    ids=range(10),
)
def test_a_broken_file_is_a_one_line_error_with_its_position(tmp_path, text, name, message):
    assert error_messages(tmp_path, text, name) == [message]


def test_an_unreadable_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    message = {
        "none.yaml": "no such file",
        ".": "is a folder",
        "pipe": "must be a regular file: it is read more than once",
    }
    for name, why in message.items():
        with pytest.raises(ConfigurationError) as refused:
            read({PREFIX + "CONFIG": f"{tmp_path}/{name}"})
        assert str(refused.value) == f"{Path(f'{tmp_path}/{name}')}: {why}"


def test_keys_may_override_what_a_merge_key_merges(tmp_path):
    text = "models:\n  a: &a {parallel: 2, ubatch_size: 8}\n  b: {<<: *a, parallel: 3}\n"
    settings = configured(tmp_path, text)
    assert (settings.launch_of("b").options.parallel, settings.launch_of("b").options.ubatch_size) == (3, 8)


# --- invalid values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {port: many}", "server.port: must be a whole number, not 'many'"),
        ("server: {port: 70000}", "server.port: must be at most 65535, not 70000"),
        ("server: {port: null}", "server.port: must be a whole number, not null"),
        ("server: {max_body: lots}", "server.max_body: must be a size like 256MiB, not 'lots'"),
        ("server: 3", "server: must be a mapping of keys to values, not 3"),
        ("server: {allow_open: maybe}", "server.allow_open: must be true or false, not 'maybe'"),
        ("server: {threads: 8, reserve_threads: 8}", "server: reserve_threads (8) must be below threads (8) - 1"),
        *(
            (f"server: {{public_url: '{url}'}}", f"server.public_url: {URL_EXPECTED}")
            for url in ("llm.example.org", "ftp://llm.example.org", "https://", "https:///x", "http://h:port")
        ),
        *(
            (f"server: {{cors_origins: ['{origin}']}}", f"server.cors_origins: {origin!r} is not an origin; {ORIGINS}")
            for origin in ("chat.example.org", "https://", "null", "https://a/path", "https://*.a", "https://u:p@a", "")
        ),
        ("scheduling: {ttl_seconds: .inf}", "scheduling.ttl_seconds: must be a number, not inf"),
        ("scheduling: {max_loaded: 0}", "scheduling.max_loaded: must be at least 1, not 0"),
        ("defaults: {ctx_size: -1}", "defaults.ctx_size: must be auto or greater than 0, not -1"),
        ("defaults: {ctx_size: big}", "defaults.ctx_size: must be auto or a whole number, not 'big'"),
        ("defaults: {flash_attn: maybe}", "defaults.flash_attn: must be one of on, off, auto, not 'maybe'"),
        ("defaults: {n_gpu_layers: -1}", "defaults.n_gpu_layers: must be all or at least 0, not -1"),
        ("defaults: {n_gpu_layers: auto}", "defaults.n_gpu_layers: must be all or a whole number, not 'auto'"),
        ("defaults: {cpu_moe: 0}", "defaults.cpu_moe: must be off, on or at least 1, not 0"),
        ("defaults: {prompt_cache: 8192}", "defaults.prompt_cache: 8192 bytes is too small; add a unit, such as 20GiB"),
        ("models: {m: {prompt_cache: much}}", "models.m.prompt_cache: must be auto or a size like 256MiB, not 'much'"),
        ("defaults: {prompt_cache: -1}", "defaults.prompt_cache: must be auto or a size like 256MiB, not -1"),
        ("models: {m: {cpu_moe: all}}", "models.m.cpu_moe: must be off, on or a whole number, not 'all'"),
        ("defaults: {partial_offload: auto}", "defaults.partial_offload: must be one of off, on, not 'auto'"),
        ("gpu: {reserve: some}", "gpu.reserve: must be a size like 256MiB, not 'some'"),
        ("gpu: {reserve: {GPU-a: some}}", "gpu.reserve: must be a size like 256MiB, not 'some'"),
        ("gpu: {reserve: {'0': 2}}", "gpu.reserve: 2 bytes is too small; add a unit, such as 20GiB"),
        ("gpu: {reserve: {'': 1GiB}}", f"gpu.reserve: {BAD_NAME}"),
        ("gpu: {reserve: [1GiB]}", "gpu.reserve: must be a size like 256MiB, not a list"),
        (
            "scheduling: {max_excess_memory: 0}",
            "scheduling.max_excess_memory: 0 would end every llama-server that takes "
            "a little more than was booked; null: no limit",
        ),
        ("gpu: {max_vram: 20}", "gpu.max_vram: 20 bytes is too small; add a unit, such as 20GiB"),
        ("gpu: {max_vram: -1}", "gpu.max_vram: must be a size like 256MiB, not -1"),
        ("gpu: {order: 0}", 'gpu.order: must be a list like ["one", "two"], not 0'),
        ("gpu: {order: ['']}", f"gpu.order[0]: {BAD_NAME}"),
        ("gpu: {strategy: fill}", "gpu.strategy: must be one of pack, spread, not 'fill'"),
        ("gpu: {busy_utilization: 0}", "gpu.busy_utilization: must be greater than 0, not 0"),
        ("gpu: {busy_utilization: 90}", "gpu.busy_utilization: must be at most 1, not 90"),
        ("gpu: {cpu_fallback: true}", "gpu.cpu_fallback: must be one of auto, never, when_full, not true"),
        ("engine: {assume_gpu: cuda}", "engine.assume_gpu: must be true or false, not 'cuda'"),
        ("models: {m: {gpus: GPU-a}}", 'models.m.gpus: must be a list like ["one", "two"], not \'GPU-a\''),
        ("models: {m: {exclude: [[]]}}", "models.m.exclude[0]: must be text, not a list"),
        ("models: {m: {min_gpus: 0}}", "models.m.min_gpus: must be at least 1, not 0"),
        ("models: {m: {max_gpus: 0}}", "models.m.max_gpus: must be at least 1, not 0"),
        ("models: {m: {min_gpus: 3, max_gpus: 2}}", "models.m: min_gpus (3) must not be above max_gpus (2)"),
        ("models: {m: {replicas: {min: 2}}}", "models.m.replicas: min (2) must not be above max (1)"),
        ("models: {m: {replicas: {min: 0}}}", "models.m.replicas.min: must be at least 1, not 0"),
        ("models: {m: {replicas: {max: 65}}}", "models.m.replicas.max: must be at most 64, not 65"),
        ("models: {m: {replicas: 2}}", "models.m.replicas: must be a mapping of keys to values, not 2"),
        (
            "models: {m: {cache_type_k: q9}}",
            "models.m.cache_type_k: must be one of f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1, not 'q9'",
        ),
        ("catalog: {models_dirs: /models}", 'catalog.models_dirs: must be a list like ["one", "two"], not \'/models\''),
        ("catalog: {hugging_face: {cache: on}}", "catalog.hugging_face.cache: must be auto, off or a path"),
        (
            "catalog: {hugging_face: {download: ask}}",
            "catalog.hugging_face.download: must be one of off, allow, on, not 'ask'",
        ),
        (
            "catalog: {hugging_face: {download: on, cache: off}}",
            "catalog.hugging_face: download: on needs the cache, which is where downloads go; cache is off",
        ),
        (
            "catalog: {hugging_face: {allow: [ggml-org]}}",
            "catalog.hugging_face.allow[0]: must be a repository, or a glob over repositories: user/repo, ggml-org/*",
        ),
        ("models: {m: {path: a, repo: b/c}}", "models.m: path and repo exclude each other; remove one"),
        ("models: {a: {aliases: [a]}}", "models: 'a' has its own name among its aliases and variants; remove it"),
        ("models: {a: {aliases: [b, b]}}", "models: 'a' has 'b' twice among its aliases and variants; remove it"),
        (
            "models: {a: {aliases: [b]}, b: {}}",
            "models: 'b' is a name, alias or variant of both a and b; only one can have it",
        ),
        (
            "models: {a: {aliases: ['c*']}, b: {aliases: ['C*']}}",
            "models: 'c*' is a name, alias or variant of both a and b; only one can have it",
        ),
        ("any_of: {x: []}", "any_of.x: is empty; list at least one model"),
        ("any_of: {x: [a, a]}", "any_of.x: has 'a' twice; remove one"),
        ("any_of: {x: [a, y], y: [a]}", "any_of.x: 'y' is a virtual name itself; list its models"),
        (
            "{models: {a: {aliases: [x]}}, any_of: {x: [a]}}",
            "any_of.x: is a name of the model 'a'; only one can have it",
        ),
        ("peers: {a/b: {url: 'http://h'}}", f"peers.a/b: {BAD_PEER}"),
        ("peers: {A: {url: 'http://h'}, a: {url: 'http://h'}}", "peers: A and a differ only in case; rename one"),
        ("peers: {b: {}}", "peers.b.url: is missing"),
        ("peers: {b: http://h}", "peers.b: must be a mapping of keys to values"),
        (
            "peers: {b: {url: 'http://h', models: []}}",
            "peers.b.models: is empty; list at least one model, or write auto",
        ),
        ("peers: {b: {url: 'http://h', models: all}}", 'peers.b.models: must be auto or a list like ["one", "two"]'),
        (
            "peers: {b: {url: 'http://h', api_key: sk-x}}",
            "peers.b.api_key: unknown key; did you mean peers.b.api_key_env?",
        ),
        (
            "peers: {b: {url: 'http://h', api_key_env: A, api_key_file: a}}",
            "peers.b: api_key_env and api_key_file exclude each other; remove one",
        ),
        (
            "peers: {b: {url: 'http://h', api_key_env: hf_abc}}",
            "peers.b.api_key_env: must be the name of an environment variable, in capital letters, not the key itself",
        ),
        ("models: {'a,b': {}}", "models.a,b: a model's name must not contain a comma"),
        ("models: {' a': {}}", f"models.' a': {BAD_NAME}"),
        ("keys: [{name: a}]", "keys[0].sha256: is missing"),
        ("scheduling: {ttl: 5}", "scheduling.ttl: unknown key; did you mean scheduling.ttl_seconds?"),
        ("models: {m: {n_ctx: 5}}", "models.m.n_ctx: unknown key; did you mean models.m.ctx_size?"),
        ("server:\n\tport: 1", "line 2, column 1: a tab character; indent with spaces"),
        (
            "models: {m: {flash_attn: off, cache_type_v: q8_0}}",
            "models.m: cache_type_v q8_0 needs flash_attn on or auto",
        ),
        (
            "models: {m: {flash_attn: off, split_mode: tensor}}",
            "models.m: split_mode tensor needs flash_attn on or auto",
        ),
    ],
)
def test_an_invalid_value_is_reported_with_its_place(tmp_path, text, message):
    assert error_messages(tmp_path, text) == [f"config.yaml: {message}"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        *(
            (url, "must begin with http:// or https:// and a host name")
            for url in ("h", "h:8080", "ftp://h", "http://")
        ),
        *(
            (url, "must begin with http:// or https:// and a host name")
            for url in ("http://h:x", "http://h:0", "http://[")
        ),
        ("https://name:pa55@h", "must not contain a name or password"),
        ("https://h/v1?api_key=pa55", "must not contain `?` or `#`"),
        ("https://h/#pa55", "must not contain `?` or `#`"),
        ("http://h\u00e9", "its host name must be ASCII"),
        *(
            (url, "its path must be plain")
            for url in ("http://h/v1/../x", "http://h//v1", "http://h/a b", "http://h/%2e")
        ),
    ],
)
def test_a_url_of_a_peer_is_only_the_beginning_of_an_address(tmp_path, url, problem):
    """Secrets in it would be shown, and what is no beginning leads to other paths than those of the routes."""
    (message,) = error_messages(tmp_path, json.dumps({"peers": {"b": {"url": url}}}))
    assert message.startswith(f"config.yaml: peers.b.url: {problem}")
    assert "pa55" not in message


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://h", ("h", 80, "/v1", False, "h")),
        ("https://h/", ("h", 443, "/v1", True, "h")),
        ("HTTP://Box_2:8080/llm/v1/", ("box_2", 8080, "/llm/v1", False, "box_2:8080")),
        ("https://[fd00::7]:443/api", ("fd00::7", 443, "/api", True, "[fd00::7]")),
    ],
)
def test_a_peers_address_is_that_of_its_url(tmp_path, url, address):
    (peer,) = configured(tmp_path, json.dumps({"peers": {"b": {"url": url}}})).peer_list()
    assert (peer.host_name, peer.port, peer.path, peer.is_tls, peer.host) == address


def test_keys_of_peers_that_are_not_here_are_warned_about(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "k")
    peers = {
        "a": {"url": "https://h", "api_key_env": "A_KEY"},
        "b": {"url": "http://localhost:1", "api_key_env": "NO_KEY"},
        "c": {"url": "http://h", "api_key_file": "none"},
    }
    settings = configured(tmp_path, json.dumps({"peers": peers}))
    assert [format_place(place) for place, _ in settings_warnings(settings)] == [
        *("peers.b.api_key_env", "peers.c.api_key_file", "peers.c.url"),
    ]


@pytest.mark.parametrize("repo", ["..", "a", "a/..", "../b", "a/b/c", "a/b:", "a/b:../c", "a b/c", "/a/b", "a/b:c/.."])
def test_a_repo_cannot_escape_the_cache(tmp_path, repo):
    assert error_messages(tmp_path, f"models: {{m: {{repo: '{repo}'}}}}") == [
        f"config.yaml: models.m.repo: must look like user/repo, user/repo:QUANT or user/repo:FILE, not {repo!r}"
    ]


def test_a_repo_may_name_a_quant_or_a_file(tmp_path):
    for repo in ("a/b", "a/b.c:Q4_K_M", "a/b:c-00001-of-00002.gguf", "a/b:BF16/c.gguf"):
        assert configured(tmp_path, f"models: {{m: {{repo: '{repo}'}}}}").models["m"].repo == repo


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {prot: 1}", "server.prot: unknown key; did you mean server.port?"),
        ("schedulling: {}", "schedulling: unknown key; did you mean scheduling?"),
        ("models: {m: {ctx_siz: 1}}", "models.m.ctx_siz: unknown key; did you mean models.m.ctx_size?"),
        ("catalog: {hugging_face: {cash: 1}}", "catalog.hugging_face.cash: unknown key; did you mean "
         "catalog.hugging_face.cache?"),
        (f"keys: [{{name: a, sha265: {HASH}}}]", "keys[0].sha265: unknown key; did you mean keys[0].sha256?"),
        ("port: 9", "port: unknown key; did you mean server.port?"),
        ("scheduling: {parallel: 4}", "scheduling.parallel: unknown key; did you mean defaults.parallel?"),
        ("models: {m: {replica: 2}}", "models.m.replica: unknown key; did you mean models.m.replicas?"),
        ("gpu: {headroom: 1}", "gpu.headroom: unknown key"),
        ("defaults: {gpu_layers: 9}", "defaults.gpu_layers: unknown key; did you mean defaults.n_gpu_layers?"),
        ("screen: {enabled: true}", "screen: unknown key"),
    ],
)  # fmt: skip
def test_an_unknown_key_names_the_nearest_known_one(tmp_path, text, message):
    assert f"config.yaml: {message}" in error_messages(tmp_path, text)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("SERVER__PROT", "SERVER__PROT: unknown name; did you mean {}SERVER__PORT?"),
        ("SERVER_PORT", "SERVER_PORT: unknown name; did you mean {}SERVER__PORT?"),
        ("PORT", "PORT: unknown name; did you mean {}SERVER__PORT?"),
        ("MODEL", "MODEL: unknown name; did you mean {}MODELS?"),
        ("ENGINE__ENV__A", "ENGINE__ENV__A: unknown name; lists and maps are JSON: {}ENGINE__ENV"),
        ("OLLAMA__TIMEOUT", "OLLAMA__TIMEOUT: unknown name"),
    ],
)
def test_a_misspelt_variable_is_an_error(tmp_path, variable, message):
    assert error_messages(tmp_path, **{variable: "1"}) == [PREFIX + message.format(PREFIX)]


def test_a_variable_with_invalid_json_is_named(tmp_path):
    assert error_messages(tmp_path, CATALOG__MODELS_DIRS="/models", MODELS__M__CTX_SIZE="1") == [
        f'{PREFIX}CATALOG__MODELS_DIRS: not JSON (line 1, column 1: Expecting value); a list is written ["one", "two"]',
        f"{PREFIX}MODELS__M__CTX_SIZE: unknown name; lists and maps are JSON: {PREFIX}MODELS",
    ]


def test_an_error_names_its_source(tmp_path):
    text = "server: {drain_seconds: x}\nmodels: {m: {parallel: 0}}\nscheduling: {max_waiting: x}"
    variables = {"SERVER__PORT": "y", "MODELS": '{"m": {"ctx_size": "z"}}', "SERVER__THREADS": "9"}
    assert error_messages(tmp_path, text, **variables) == [
        f"{PREFIX}SERVER__PORT: must be a whole number, not 'y'",
        "config.yaml: server.drain_seconds: must be a number, not 'x'",
        "config.yaml: scheduling.max_waiting: must be a whole number, not 'x'",
        f"{PREFIX}MODELS: models.m.ctx_size: must be auto or a whole number, not 'z'",
        "config.yaml: models.m.parallel: must be at least 1, not 0",
    ]


def test_an_error_about_two_keys_names_the_sources_of_both(tmp_path):
    (message,) = error_messages(tmp_path, "server: {reserve_threads: 8}", SERVER__THREADS="8")
    assert message == f"{PREFIX}SERVER__THREADS, config.yaml: server: reserve_threads (8) must be below threads (8) - 1"


@pytest.mark.parametrize(
    "text",
    [
        f"keys: {SECRET}",
        f"keys: [{SECRET}]",
        f"keys: [{{name: a, sha256: {SECRET}}}]",
        f"keys: [{{name: a, sha256: [{SECRET}]}}]",
        f"keys: [{{name: a, sha256: {HASH}, admin: {SECRET}}}]",
        f"engine: {{env: {SECRET}}}",
        f"engine: {{env: {{LLAMA_API_KEY: {SECRET}}}}}",
        f"engine: {{args: --api-key={SECRET}}}",
        f"engine: {{args: ['--api-key={SECRET}']}}",
        f"models: {{m: {{env: [{SECRET}]}}}}",
        f"models: {{m: {{args: [--api-key {SECRET}]}}}}",
        f"keys: [{{name: a, sha256: {SECRET}]",
    ],
)
def test_no_error_message_contains_a_secret(tmp_path, text):
    with pytest.raises(ConfigurationError) as refused:
        configured(tmp_path, text)
    assert refused.value.lines
    assert SECRET not in str(refused.value) and SECRET not in repr(refused.value.__cause__)
    assert error_messages(tmp_path, "", KEYS=f'"{SECRET}"') == [f'{PREFIX}KEYS: must be a list like ["one", "two"]']


# --- keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://llm.example.org", "https://llm.example.org"),
        ("HTTPS://LLM.example.org:443/chat?x#y", "https://llm.example.org"),
        ("http://llm.example.org:80/", "http://llm.example.org"),
        ("http://10.0.0.2:8080", "http://10.0.0.2:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
    ],
)
def test_the_public_url_is_compared_as_browsers_send_it(tmp_path, url, origin):
    assert configured(tmp_path, f"server: {{public_url: '{url}'}}").server.public_origin == origin
    assert configured(tmp_path).server.public_origin == ""


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("'*'", {"*"}),
        ("['*']", {"*"}),
        ("[]", set()),
        (
            "[HTTPS://Chat.Example.org:443/, 'http://localhost:3000']",
            {"https://chat.example.org", "http://localhost:3000"},
        ),
        ("['app://obsidian.md', 'chrome-extension://abcdef']", {"app://obsidian.md", "chrome-extension://abcdef"}),
        ("['http://[::1]:80']", {"http://[::1]"}),
    ],
)
def test_origins_of_pages_are_compared_as_browsers_send_them(tmp_path, text, origins):
    assert configured(tmp_path, f"server: {{cors_origins: {text}}}").server.allowed_origins == origins
    assert configured(tmp_path).server.allowed_origins == frozenset()


def test_keys_become_api_keys(tmp_path):
    text = (
        f"keys:\n- {{name: a, sha256: {HASH.upper()}}}\n- name: b\n  sha256: {'0f' * 32}\n  models: [x]\n  admin: true"
    )
    assert configured(tmp_path, text).api_keys() == (
        ApiKey("a", HASH, ("*",), False, 600),
        ApiKey("b", "0f" * 32, ("x",), True, 600),
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (f"[{{name: a, sha256: {HASH}}}, {{name: a, sha256: {'0f' * 32}}}]", "keys: two keys have the name 'a'"),
        (f"[{{name: a, sha256: {HASH}}}, {{name: b, sha256: {HASH}}}]", "keys: a and b are the same key; remove one"),
        (
            "[{name: a, sha256: sesame}]",
            "keys[0].sha256: must be the hash of a key (64 hexadecimal digits); create it with: "
            'printf %s "$KEY" | sha256sum',
        ),
        (
            f"[{{name: a, sha256: {hashlib.sha256(b'').hexdigest()}}}]",
            "keys[0].sha256: is the hash of an empty key",
        ),
    ],
)
def test_keys_must_be_distinct_hashes(tmp_path, keys, message):
    assert error_messages(tmp_path, f"keys: {keys}") == [f"config.yaml: {message}"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_a_loopback_address_requires_no_keys(tmp_path, host):
    assert not configured(tmp_path, SERVER__HOST=host).is_open


@pytest.mark.parametrize("host", ["0.0.0.0", "", "*", "::", "192.168.1.5", "myhost", "127.0.0.1.example.org"])
def test_an_open_address_requires_keys_or_allow_open(tmp_path, host):
    (message,) = error_messages(tmp_path, SERVER__HOST=host)
    source, _, rest = message.partition(": ")
    assert (source, rest) == (
        f"{PREFIX}SERVER__HOST",
        OPEN_WITHOUT_KEYS.format(host=host.replace("*", "") or "0.0.0.0"),
    )
    assert configured(tmp_path, SERVER__HOST=host, SERVER__ALLOW_OPEN="true").is_open
    assert not configured(tmp_path, f"keys: [{{name: a, sha256: {HASH}}}]", SERVER__HOST=host).is_open


# --- options of llama-server ------------------------------------------------------------------------------------


DENIED = """
    --tools --tools=all --mcp-servers-config --agent -ag --no-agent --media-path --cors-origins --ui-mcp-proxy --webui
    --no-webui --ui-config-file --host --port --path --api-prefix --api-key --api-key-file --ssl-key-file --alias -a
    -m --model --model-url -mu -hf -hfr --hf-repo --hf-file -hft --docker-repo --models-dir --slot-save-path
    --slot_save_path --log-file --log-disable --lora --lora-scaled --control-vector --rpc --fim-qwen-7b-spec
    --gpt-oss-20b-default -c --ctx-size --ctx_size --ctx-size=1 -np --parallel -kvu --kv-unified --no-kv-unified -no-kvu
    -b -ub -ctk -ctv -fa --flash-attn -ngl --gpu-layers --n-gpu-layers -ts -sm -mg -dev --device -cmoe --cpu-moe -ncmoe
    -ot -nkvo -mm --mmproj --no-mmproj --mmproj-url --cache-ram -cram -fit --fit-target -md --model-draft --draft-max
    --spec-type -ngld --slots --no-slots --metrics --props --help --version --sleep-idle-seconds
"""
ALLOWED = """
    --jinja --threads -t 8 -1 --no-host --mlock --no-mmap --embeddings --pooling mean --chat-template-file --top-k
    --reasoning-budget --override-kv tokenizer.ggml.add_bos_token=bool:false -C --swa-full --numa host
"""


@pytest.mark.parametrize("option", DENIED.split())
def test_options_that_the_proxy_sets_or_that_are_unsafe_are_denied(option):
    assert why_argument_denied(option)


@pytest.mark.parametrize("argument", ALLOWED.split())
def test_all_other_options_are_allowed(argument):
    assert why_argument_denied(argument) is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--ctx_size=4096", "--ctx_size must not be set: use ctx_size"),
        ("-np", "-np must not be set: use parallel"),
        ("-hf", "-hf must not be set: use models.NAME.repo"),
        ("-cram", "-cram must not be set: use prompt_cache, with a unit: prompt_cache: 8192MiB"),
        ("--mmproj", "--mmproj must not be set: use models.NAME.mmproj"),
        ("-ngl", "-ngl must not be set: use n_gpu_layers"),
        ("--n-cpu-moe", "--n-cpu-moe must not be set: use cpu_moe"),
        ("-b", "-b must not be set: use batch_size"),
        ("-ot", "-ot must not be set: use tensor_overrides"),
        ("--no-kv-offload", "--no-kv-offload must not be set: use no_kv_offload"),
        ("--no-mmproj-offload", "--no-mmproj-offload must not be set: use mmproj_offload"),
        (
            "--tensor-split",
            "--tensor-split must not be set: the proxy chooses the GPUs; restrict the choice with models.NAME.gpus, "
            "exclude, min_gpus and max_gpus",
        ),
        ("--threads 4", "--threads: write an option and its value as two entries"),
    ],
)
def test_the_reason_for_a_denied_option_names_the_key_to_use(argument, message):
    assert why_argument_denied(argument) == message


@pytest.mark.parametrize(
    ("name", "denied"),
    [
        *((name, True) for name in ("LLAMA_ARG_TOOLS", "LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_N_PARALLEL", "LLAMA_API_KEY")),
        *((name, True) for name in ("LLAMA_ARG_STATIC_PATH", "LLAMA_ARG_ENDPOINT_SLOTS", "LLAMA_ARG_NO_KV_UNIFIED")),
        *((name, True) for name in ("LLAMA_ARG_HFD_REPO", "LLAMA_SERVER_ROUTER_PORT", "CUDA_VISIBLE_DEVICES")),
        *((name, False) for name in ("LLAMA_ARG_THREADS", "LLAMA_ARG_NO_HOST", "GGML_CUDA_ENABLE_UNIFIED_MEMORY")),
        *((name, False) for name in ("LD_PRELOAD", "HF_TOKEN", "OMP_NUM_THREADS")),
    ],
)
def test_variables_are_checked_against_the_same_table(name, denied):
    assert bool(why_variable_denied(name)) == denied


def test_options_are_checked_in_all_sections(tmp_path):
    text = "engine: {args: [-c, 4], env: {LLAMA_ARG_TOOLS: all}}\nmodels: {m: {args: [--host, x], env: {A=B: x}}}"
    assert error_messages(tmp_path, text) == [
        "config.yaml: engine.args: -c must not be set: use ctx_size",
        "config.yaml: engine.env: LLAMA_ARG_TOOLS must not be set: it could run commands, access files or bypass the "
        "proxy's access control",
        "config.yaml: models.m.args: --host must not be set: the proxy sets it",
        "config.yaml: models.m.env: a variable needs a name without `=`; NUL characters are not allowed",
    ]


# --- meaning ----------------------------------------------------------------------------------------------------


def test_a_model_inherits_what_it_does_not_set(tmp_path):
    text = """
        engine: {args: [--jinja], env: {A: "1"}}
        defaults: {parallel: 2, cache_type_k: q8_0, kv_unified: false}
        models: {m: {ctx_size: 8192, cache_type_k: f16, args: [--threads, 4], env: {B: 2}}}
    """
    settings = configured(tmp_path, text)
    defaults = a_launch(
        parallel=2,
        cache_type_k="q8_0",
        kv_unified=False,
        ubatch_size=AUTO_UBATCH,
        prompt_cache=AUTO_PROMPT_CACHE,
        args=("--jinja",),
    )
    assert settings.launch_of() == settings.launch_of("no entry") == defaults
    assert settings.launch_of("m") == a_launch(
        ctx_size=8192,
        parallel=2,
        kv_unified=False,
        ubatch_size=AUTO_UBATCH,
        prompt_cache=AUTO_PROMPT_CACHE,
        args=("--jinja", "--threads", "4"),
        env={"B": "2"},
    )


def test_options_in_args_reach_the_estimate_and_keys_override_them(tmp_path):
    settings = configured(tmp_path, "engine: {args: [--embeddings]}")
    assert settings.launch_of().options.task is Task.EMBEDDING
    args = ["-c", "99", "-np", "1", "-ctk", "q4_0", "-ncmoe", "1"]
    options = ModelSettings(parallel=2, cpu_moe=3).over_arguments(args)
    assert (options.ctx_size, options.parallel, options.kv_unified, options.cache_type_k) == (4096, 2, True, "f16")
    assert options.n_cpu_moe == 3


@pytest.mark.parametrize(
    ("model", "mode", "threads"),
    [
        ("args: [--no-mmap]", LoadMode.READ, "3"),
        ("args: [--load-mode, mlock]", LoadMode.AUTO, "3"),
        ("args: [--mlock, -t, '4']", LoadMode.AUTO, "4"),
        ("args: [--threads=4]", LoadMode.MMAP, "4"),
        ("args: [--no-mmap, -t, '4'], load_mode: direct, threads: 5", LoadMode.DIRECT, "5"),
        ("args: [--jinja]", LoadMode.MMAP, "3"),
    ],
)
def test_a_models_args_count_before_defaults(tmp_path, model, mode, threads):
    text = f"defaults: {{load_mode: mmap, threads: 3}}\nmodels: {{m: {{{model}}}}}"
    launch = configured(tmp_path, text).launch_of("m")
    assert (launch.options.load_mode, launch.args[-1].removeprefix("--threads=")) == (mode, threads)


def test_each_key_of_a_models_options_is_a_field_of_model_options():
    """Exceptions are translated in over_arguments, or are placement constraints."""
    options = {option.name for option in fields(ModelOptions)}
    assert ModelDefaults.model_fields.keys() - options == {
        *("cpu_moe", "partial_offload", "tensor_overrides", "no_kv_offload", "threads", "speculative")
    }


def test_an_experts_keys_become_options(tmp_path):
    text = """
        defaults: {tensor_overrides: [a=CPU], threads: 3}
        models:
          m: {batch_size: 256, no_kv_offload: true, mmproj_offload: false, tensor_overrides: ["ffn_.*_exps=CPU", b=CPU]}
    """
    settings = configured(tmp_path, text)
    launch = settings.launch_of("m")
    options = launch.options
    assert (options.batch_tokens, options.kv_offload, options.mmproj_offload) == (256, False, False)
    assert options.overrides == (("ffn_.*_exps", "CPU"), ("b", "CPU"))
    assert settings.launch_of().options.overrides == (("a", "CPU"),)
    assert launch.args == ("--threads", "3")


@pytest.mark.parametrize(
    ("speculative", "expected"),
    [
        ("off", ("none", 3)),
        ("auto", ("none", 3)),
        ("{draft: small}", ("draft-simple", 3)),
        ("{draft: head.gguf, type: draft-eagle3, max_tokens: 8}", ("draft-eagle3", 8)),
        ("{type: draft-mtp}", ("draft-mtp", 3)),
        ("{type: ngram-mod}", ("ngram-mod", 3)),
    ],
)
def test_what_drafts_tokens_is_an_option(tmp_path, speculative, expected):
    options = configured(tmp_path, f"models: {{m: {{speculative: {speculative}}}}}").launch_of("m").options
    assert (options.speculation, options.draft_max) == expected


@pytest.mark.parametrize(
    ("speculative", "message"),
    [
        ("{}", "speculative: name a draft (a file or a model), or a type such as ngram-mod or draft-mtp"),
        ("{draft: a, type: ngram-mod}", "speculative: ngram-mod uses no draft model; remove draft, or the type"),
        ("{type: draft-eagle3}", "speculative: draft-eagle3 needs a draft: a file, or the name of a model"),
    ],
)
def test_a_draft_and_its_type_belong_together(tmp_path, speculative, message):
    (found,) = error_messages(tmp_path, f"models: {{m: {{speculative: {speculative}}}}}")
    assert message in found


@pytest.mark.parametrize(
    ("speculative", "message"),
    [
        ("{type: mtp}", "models.m.speculative.type: must be one of draft-simple, draft-mtp, "),
        ("{type: ngram-mod, max_tokens: 0}", "models.m.speculative.max_tokens: must be at least 1, not 0"),
        ("{type: ngram-mod, max: 3}", "models.m.speculative.max: unknown key; did you mean models.m.speculative.max_"),
        ("on", "models.m.speculative: must be one of auto, off, not 'on'"),
        ("small.gguf", "models.m.speculative: must be auto, off, or {draft: small.gguf}"),
        ("ngram-mod", "models.m.speculative: must be auto, off, or {type: ngram-mod}"),
    ],
)
def test_an_error_names_its_key_in_speculative(tmp_path, speculative, message):
    (found,) = error_messages(tmp_path, f"models: {{m: {{speculative: {speculative}}}}}")
    assert message in found


@pytest.mark.parametrize(
    ("override", "message"),
    [
        *(
            (
                override,
                "write PATTERN=CPU, one for each item, with no comma or other =, such as ffn_.*_exps=CPU; "
                f"not {override!r}",
            )
            for override in ("exps", "a=CPU,b=CPU", "blk(?=s)=CPU")
        ),
        ("exps=CUDA0", "'CUDA0': only CPU; on which GPU a tensor is, is the proxy's choice"),
        ("(=CPU", "'(' is not a regular expression: missing ), unterminated subpattern at position 0"),
    ],
)
def test_an_override_keeps_tensors_in_ram(tmp_path, override, message):
    (found,) = error_messages(tmp_path, f"models: {{m: {{tensor_overrides: ['{override}']}}}}")
    assert found == f"config.yaml: models.m.tensor_overrides[0]: {message}"


def test_an_option_that_is_newer_than_this_release_is_passed_on_with_a_warning(tmp_path):
    text = "models: {m: {args: [--temp, '-1', --zig-zag, '7', --jinja, --new=3]}, n: {args: [--lazy-mode, 'on']}}"
    (tmp_path / "config.yaml").write_text(text)
    found = read({PREFIX + "CONFIG": str(tmp_path / "config.yaml")})
    (warning,) = [line for line in found.warnings if "models.m.args" in line]
    assert "models.m.args: --zig-zag, --new: not known to this release; passed on to llama-server" in warning
    options = {name: found.settings.launch_of(name).options for name in "mn"}
    assert (options["m"].unmeasured, options["n"].unmeasured) == (("--zig-zag", "--new"), ("--lazy-mode",))
    shape = shape_of("llama-3.1-8b", "Q4_K_M")
    assert [estimate_memory(shape, each).confidence for each in options.values()] == [Confidence.LOW] * 2


def test_an_automatic_context_has_4096_tokens(tmp_path):
    text = "defaults: {ctx_size: 5}\nmodels: {m: {ctx_size: auto}}"
    settings = configured(tmp_path, text)
    assert [each.options.ctx_size for each in (Settings().launch_of(), settings.launch_of("m"))] == [4096, 4096]


def test_the_description_of_ctx_size_lists_the_automatic_contexts():
    message = ModelDefaults.model_fields["ctx_size"].description or ""
    assert list(STEPS) == sorted(int(number) for number in re.findall(r"\d{4,}", message))


def test_the_defaults_do_not_constrain_gpus():
    settings = Settings()
    assert (settings.policy(), settings.gpu_limits(), settings.engine.assume_gpu) == (Policy(), GpuLimits(), False)
    assert (
        settings.constraints_of()
        == settings.constraints_of("no entry")
        == PlacementConstraints(has_auto_context=True, has_auto_speculation=True)
    )
    assert settings.gpu.cpu_fallback == "auto"
    assert settings.launch_of() == a_launch(
        n_gpu_layers=ALL_LAYERS, n_cpu_moe=0, ubatch_size=AUTO_UBATCH, prompt_cache=AUTO_PROMPT_CACHE
    )


def test_the_batch_is_as_large_as_the_ubatch(tmp_path):
    """llama-server reduces the ubatch to the batch, 2048, without a word."""
    sizes = {}
    for ubatch in (512, 4096):
        options = configured(tmp_path, f"models: {{m: {{ubatch_size: {ubatch}}}}}").launch_of("m").options
        sizes[ubatch] = options.batch_tokens, options.ubatch_tokens
    assert sizes == {512: (2048, 512), 4096: (4096, 4096)}


def test_the_gpu_section_becomes_a_policy_and_limits(tmp_path):
    text = """
        engine: {assume_gpu: true}
        gpu: {reserve: 1GiB, max_vram: 20GiB, order: [1, NVIDIA L4], strategy: spread, busy_utilization: 0.5}
    """
    settings = configured(tmp_path, text)
    assert settings.engine.assume_gpu
    assert settings.policy() == Policy(Strategy.SPREAD, ("1", "NVIDIA L4"))
    assert settings.gpu_limits() == GpuLimits(reserve_bytes=2**30, max_vram_bytes=20 * 2**30, busy_utilization=0.5)


def test_the_reserve_may_be_given_for_each_gpu(tmp_path):
    limits = configured(tmp_path, "gpu: {reserve: {'0': 2GiB, NVIDIA L4: 0}}").gpu_limits()
    assert limits == GpuLimits(reserves={"0": 2 * 2**30, "NVIDIA L4": 0})


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("1GiB", GpuLimits(reserve_bytes=2**30)),
        ("0", GpuLimits(reserve_bytes=0)),
        ('{"GPU-1a": "1GiB"}', GpuLimits(reserves={"GPU-1a": 2**30})),
    ],
)
def test_the_environment_sets_the_reserve_in_both_forms(tmp_path, value: str, limits: GpuLimits):
    assert configured(tmp_path, "gpu: {reserve: 3GiB}", GPU__RESERVE=value).gpu_limits() == limits


def test_the_default_reserve_is_no_choice_even_if_it_is_written_down(tmp_path):
    """config.example.yaml has it, and some GPUs have a default of their own."""
    assert configured(tmp_path, "gpu: {reserve: 512MiB}").gpu_limits().reserve_bytes is None


def test_the_names_of_gpus_are_collected_by_key(tmp_path):
    text = "gpu: {reserve: {a: 1GiB}, order: [b]}\nmodels: {m: {gpus: [c], exclude: [1]}}"
    names = {"gpu.reserve": ("a",), "gpu.order": ("b",), "models.m.gpus": ("c",), "models.m.exclude": ("1",)}
    assert configured(tmp_path, text).gpu_names() == names


def test_the_environment_sets_gpu_keys(tmp_path):
    text = "gpu: {max_vram: 1GiB}\ndefaults: {n_gpu_layers: 7, cpu_moe: on}"
    settings = configured(
        tmp_path,
        text,
        GPU__ORDER="[0]",
        GPU__MAX_VRAM="null",
        GPU__CPU_FALLBACK="never",
        DEFAULTS__N_GPU_LAYERS="all",
        DEFAULTS__CPU_MOE="3",
    )
    assert (settings.policy().order, settings.gpu_limits().max_vram_bytes, settings.gpu.cpu_fallback) == (
        ("0",),
        None,
        "never",
    )
    assert (settings.launch_of().options.n_gpu_layers, settings.launch_of().options.n_cpu_moe) == (ALL_LAYERS, 3)


def test_a_models_constraints_override_the_defaults(tmp_path):
    text = """
        gpu: {cpu_fallback: when_full}
        defaults: {cpu_moe: on, partial_offload: on}
        models:
          m:
            {gpus: [0, GPU-a], exclude: [1], min_gpus: 2, max_gpus: 2, ctx_size: 4096, partial_offload: off,
             speculative: off}
          n: {cpu_moe: off}
    """
    settings = configured(tmp_path, text)
    defaults = PlacementConstraints(
        has_auto_context=True, has_auto_speculation=True, cpu_moe=True, partial_offload=True, cpu_when_full=True
    )
    assert settings.constraints_of() == defaults
    assert settings.constraints_of("n") == replace(defaults, cpu_moe=False)
    assert settings.constraints_of("m") == PlacementConstraints(
        ("0", "GPU-a"), ("1",), 2, 2, cpu_moe=True, cpu_when_full=True
    )


@pytest.mark.parametrize(
    ("text", "n_gpu_layers", "n_cpu_moe", "cpu_moe"),
    [
        ("n_gpu_layers: 0", 0, 0, False),
        ("n_gpu_layers: 12, cpu_moe: 5", 12, 5, False),
        ("n_gpu_layers: all, cpu_moe: on", ALL_LAYERS, 0, True),
        ("cpu_moe: true", ALL_LAYERS, 0, True),
        ("cpu_moe: 1", ALL_LAYERS, 1, False),
    ],
)
def test_numbers_of_layers_and_experts_become_launch_options(tmp_path, text, n_gpu_layers, n_cpu_moe, cpu_moe):
    settings = configured(tmp_path, f"models: {{m: {{{text}}}}}")
    options = settings.launch_of("m").options
    assert (options.n_gpu_layers, options.n_cpu_moe) == (n_gpu_layers, n_cpu_moe)
    assert settings.constraints_of("m").cpu_moe == cpu_moe


def test_the_default_queue_shrinks_with_the_threads(tmp_path):
    # 24 threads - 16 reserved - 1 running
    assert configured(tmp_path, SERVER__THREADS="24").scheduling.max_waiting == 7
    (message,) = error_messages(tmp_path, "scheduling: {max_waiting: 500}")
    assert "scheduling.max_waiting (500) must be below" in message


def test_folders_are_relative_to_home_or_the_configuration_file(tmp_path):
    text = "catalog: {models_dirs: [~/models, here, /there], hugging_face: {cache: hub}}\nmodels: {m: {path: ~/m.gguf}}"
    settings = configured(tmp_path, text)
    assert settings.catalog.models_dirs == [Path.home() / "models", tmp_path / "here", Path("/there")]
    assert settings.catalog.hugging_face.cache == str(tmp_path / "hub")
    assert settings.models["m"].path == Path.home() / "m.gguf"


def test_relative_paths_are_relative_to_the_files_folder(tmp_path):
    assert configured(tmp_path).folder == tmp_path
    assert load_settings().folder == Path.cwd()


# --- the example ------------------------------------------------------------------------------------------------


def uncommented() -> str:
    """The example with its commented-out keys enabled: lines that begin with # but not with a sentence."""
    lines = EXAMPLE.read_text().splitlines()
    return "\n".join(
        re.sub(r"^#(?! \S)", "", line) for line in lines if line[:9] not in ("keys: [] ", "models: {", "peers: {}")
    )


def test_the_example_has_the_defaults():
    settings = read({PREFIX + "CONFIG": str(EXAMPLE)}).settings
    assert settings.model_dump() == Settings().model_dump()


def test_the_example_names_every_key():
    example = yaml.safe_load(uncommented())
    for place, info in variable_names().values():
        value = example
        for part in place:
            assert part in value, place
            value = value[part]
        if not is_section(info) and (section := section_in(info)):
            (entry,) = value.values() if isinstance(value, dict) else value
            assert {*entry, "repo"} == {*section.model_fields, "repo"}  # `repo` is commented out, next to `path`
    assert "#repo: " in EXAMPLE.read_text()


def test_the_commented_keys_of_the_example_are_valid(tmp_path):
    settings = configured(tmp_path, uncommented())
    assert settings.launch_of("qwen3-8b").options.ctx_size == 32768
    assert [key.name for key in settings.api_keys()] == ["alice"]


def test_every_value_of_the_example_is_explained():
    values = [line for line in uncommented().splitlines() if re.match(r" *(- )?#?\w+: +[^# ]", line)]
    assert len(values) > 45
    assert not [line for line in values if not re.search(r"\S +# \S", line)]


@pytest.mark.parametrize(
    ("size", "text"), [(1024**3, "1GiB"), (1536 * 1024**2, "1536MiB"), (2048, "2KiB"), (1000, "1000"), (0, "0")]
)
def test_a_size_is_shown_as_it_is_written(size: int, text: str):
    assert size_text(ByteSize(size)) == text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("lora: x.gguf", "models.m.lora: must be a list of adapters: [{path: x.gguf}]"),
        ("lora: {path: x.gguf, scale: 2}", "models.m.lora: must be a list of adapters: [{path: x.gguf}]"),
        ("lora: [x.gguf]", "models.m.lora[0]: must be a mapping: {path: x.gguf}"),
        ('lora: [{path: ""}]', "models.m.lora[0].path: must be a file"),
        ("prompt_cache: true", "models.m.prompt_cache: must be a size like 256MiB, not true or false"),
        ('speculative: {draft: ""}', "models.m.speculative.draft: must be a file, or the name of a model"),
    ],
)
def test_what_was_nearly_right_is_told_how_to_be(tmp_path, keys, message):
    (found,) = error_messages(tmp_path, f"models: {{m: {{path: a.gguf, {keys}}}}}")
    assert found.endswith(f": {message}")
