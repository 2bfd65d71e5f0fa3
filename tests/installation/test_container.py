"""The container file: pinned, not root, with a health check that needs no shell, and enough time to drain."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest
import yaml

from app.settings.sections.server import ServerSettings

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = ROOT / "deploy/container"
LINES = re.sub(r"\\\n\s*", " ", (CONTAINER / "Containerfile").read_text()).splitlines()


def images() -> dict[str, str]:
    """The default of each ARG that names an image."""
    found = (re.fullmatch(r"ARG (\w+_IMAGE)=(\S+)", line) for line in LINES)
    return {match[1]: match[2] for match in found if match}


def stage(name: str) -> list[str]:
    start = next(number for number, line in enumerate(LINES) if re.match(rf"FROM .* AS {name}$", line))
    ends = (number for number, line in enumerate(LINES) if number > start and line.startswith("FROM "))
    return LINES[start : next(ends, len(LINES))]


def value(name: str, instruction: str) -> str:
    """Of the last such instruction of a stage."""
    return [line.removeprefix(instruction).strip() for line in stage(name) if line.startswith(f"{instruction} ")][-1]


def test_every_base_image_has_a_registry_and_a_version():
    assert images() and all(re.fullmatch(r"[\w.-]+\.\w+/\S+:\S*\d\S*", image) for image in images().values())
    bases = [line.split()[1] for line in LINES if line.startswith("FROM ")]
    assert set(bases) == {f"${{{name}}}" for name in images()}


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_service_is_not_root_and_gets_its_signals(name: str):
    assert value(name, "USER") == "10001"
    assert (json.loads(value(name, "ENTRYPOINT")), json.loads(value(name, "CMD"))) == (["llama-smart-proxy"], ["serve"])
    check = value(name, "HEALTHCHECK").partition(" CMD ")[2]
    assert json.loads(check)[:2] == ["python3", "-c"] and "/readyz" in json.loads(check)[2]


def test_both_kinds_keep_their_files_in_the_same_places():
    for instruction in ("VOLUME", "EXPOSE", "HEALTHCHECK", "WORKDIR"):
        assert value("cpu", instruction) == value("cuda", instruction)
    assert json.loads(value("cpu", "VOLUME")) == ["/models", "/state", "/cache"]


def test_the_build_sees_all_that_the_wheel_holds_and_no_more():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    data = re.findall(r"^\.\./(\w+)", parser["options.package_data"]["app"], flags=re.MULTILINE)
    seen = re.findall(r"^!([\w.]+)$", (CONTAINER / "Containerfile.dockerignore").read_text(), flags=re.MULTILINE)
    assert {name.split(".")[0] for name in data} | {"app", "workers"} <= {name.split(".")[0] for name in seen}
    assert all((ROOT / name).exists() for name in seen)


def test_the_compose_file_waits_for_the_drain_and_requires_a_key():
    service = yaml.safe_load((CONTAINER / "compose.yaml").read_text())["services"]["llama-smart-proxy"]
    server = ServerSettings()
    assert int(service["stop_grace_period"].removesuffix("s")) > server.drain_seconds + server.stop_seconds + 10
    keys = service["environment"]["LLAMA_SMART_PROXY_KEYS"]
    (key,) = json.loads(re.sub(r"\$\{KEY_SHA256:\?.*?\}", "0f" * 32, keys))
    assert (key["sha256"], key["admin"]) == ("0f" * 32, True)
