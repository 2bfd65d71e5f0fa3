"""Retired keys: files of earlier releases stay valid, with one warning for each key that no longer has an effect."""

from __future__ import annotations

import json
import os
import re
from datetime import date
from pathlib import Path
from unittest import mock

import pytest

from app.settings.configuration import PREFIX, Configuration, ConfigurationError, read_configuration
from app.settings.retired_keys import RETIRED, RetiredKey, find_retired_keys, without_retired_keys
from app.settings.schema import Settings
from tests.helpers.service import serving

EARLIER_EXAMPLE = Path(__file__).parent / "config.example.2026-12-01.yaml"
IGNORED = "ignored, retired on 2026-12-01: to pin the service to CPUs, set CPUAffinity= in its systemd unit"
RENAMED = RetiredKey(("models", "*", "context"), "use ctx_size", since="2026-12-01")


def read(tmp_path: Path, text: str = "", **environment: str) -> Configuration:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    variables = {PREFIX + name: value for name, value in environment.items()}
    with mock.patch.dict(os.environ, {PREFIX + "CONFIG": str(file), **variables}):
        return read_configuration()


def test_a_retired_key_of_the_file_is_ignored_with_a_warning(tmp_path: Path):
    found = read(tmp_path, "server: {cpu: 3, port: 81}")
    assert (found.settings.server.port, found.settings.server) == (81, Settings(server={"port": 81}).server)
    assert found.warnings == (f"{tmp_path}/config.yaml: server.cpu: {IGNORED}",)


@pytest.mark.parametrize("value", ["3", "null", "x"])
def test_a_retired_variable_is_ignored_with_a_warning(tmp_path: Path, value: str):
    found = read(tmp_path, SERVER__CPU=value)
    assert (found.settings.model_dump(), found.variables) == (Settings().model_dump(), ())
    assert found.warnings == (f"{PREFIX}SERVER__CPU: {IGNORED}",)


def test_a_retired_key_in_a_sections_variable_is_ignored_with_a_warning(tmp_path: Path):
    found = read(tmp_path, SERVER=json.dumps({"cpu": 3, "port": 81}))
    assert (found.settings.server.port, found.variables) == (81, (PREFIX + "SERVER",))
    assert found.warnings == (f"{PREFIX}SERVER: server.cpu: {IGNORED}",)


def test_a_retired_key_that_two_sources_set_is_one_warning(tmp_path: Path):
    assert read(tmp_path, "server: {cpu: 3}", SERVER__CPU="4").warnings == (f"{PREFIX}SERVER__CPU: {IGNORED}",)


def test_unknown_keys_next_to_a_retired_one_are_errors(tmp_path: Path):
    with pytest.raises(ConfigurationError) as refused:
        read(tmp_path, "server: {cpu: 3, cpus: 3}")
    assert refused.value.lines == (f"{tmp_path}/config.yaml: server.cpus: unknown key",)


def test_a_retired_key_in_the_originals_file_is_an_unknown_key(tmp_path: Path):
    text = json.dumps({"backend": "llama.cpp", "server": {"host": "127.0.0.1", "cpu": 3}})
    assert read(tmp_path, text).warnings == ("server.cpu: unknown key; not used, as in the original service",)
    assert read(tmp_path, text, SERVER__CPU="3").warnings[-1] == f"{PREFIX}SERVER__CPU: {IGNORED}"


def test_a_wildcard_matches_all_entries_of_a_map_or_list():
    data = {"models": {"a": {"context": 1, "pin": True}, "b": {"pin": False}, "c": {"context": 2}}}
    assert find_retired_keys(data, [RENAMED]) == {
        ("models", "a", "context"): RENAMED,
        ("models", "c", "context"): RENAMED,
    }
    assert without_retired_keys(data, [RENAMED]) == {"models": {"a": {"pin": True}, "b": {"pin": False}, "c": {}}}
    assert data["models"]["c"] == {"context": 2}
    in_a_list = RetiredKey(("keys", "*", "secret"), "use sha256", since="2026-12-01")
    assert without_retired_keys({"keys": [{"secret": 1}]}, [in_a_list]) == {"keys": [{}]}


@pytest.mark.parametrize("data", [None, [], "text", {"server": None}, {"server": "cpu"}, {"server": ["cpu"]}])
def test_data_without_retired_keys_is_returned_unchanged(data: object):
    assert without_retired_keys(data) is data


@pytest.mark.parametrize("key", RETIRED, ids=lambda key: ".".join(key.place))
def test_a_retired_key_has_a_date_and_a_row_in_the_upgrade_notes(key: RetiredKey):
    assert date.fromisoformat(key.since)
    notes = (Path(__file__).parents[2] / "docs" / "upgrading.md").read_text()
    assert f"`{'.'.join(key.place)}`" in notes


def uncommented(text: str) -> str:
    """The example with its commented-out blocks enabled, so that every key is read."""
    lines = text.splitlines()
    return "\n".join(re.sub(r"^#(?! \S)", "", line) for line in lines if line[:9] not in ("keys: [] ", "models: {"))


@pytest.mark.integration
def test_the_service_starts_with_every_key_of_the_example_of_2026_12_01(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(uncommented(EARLIER_EXAMPLE.read_text()))
    with serving(tmp_path, "--config", str(config)) as service:
        assert service.get("/livez").status_code == 200
        service.stop()
        lines = [line.partition("configuration: ")[2] for line in service.lines if "configuration: " in line]
    assert lines == [f"{config}: server.cpu: {IGNORED}"]
