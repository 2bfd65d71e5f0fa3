"""The files of an installation, as text."""

from __future__ import annotations

import yaml

from app.use_cases.installation.files import (
    CONFIGURATION,
    ENVIRONMENT,
    MODELS,
    InstallationChoices,
    PlannedFile,
    configuration,
    system_commands,
    system_files,
    user_files,
)
from workers.folders import UNIT_FILE

TEMPLATE = UNIT_FILE.read_text()
CHOICES = InstallationChoices("/opt/x/bin/llama-smart-proxy", "llama-smart-proxy")


def by_path(files: list[PlannedFile]) -> dict[str, PlannedFile]:
    return {file.path: file for file in files}


def test_the_systems_unit_is_the_packaged_one_with_program_and_user():
    text = by_path(system_files(CHOICES, TEMPLATE))["/etc/systemd/system/llama-smart-proxy.service"].text
    changed = set(text.splitlines()) - set(TEMPLATE.splitlines())
    assert changed == {
        "# Made by llama-smart-proxy install-service. Change it with systemctl edit.",
        "ExecStart=/opt/x/bin/llama-smart-proxy serve",
        "User=llama-smart-proxy",
    }
    assert "DynamicUser" not in text and f"EnvironmentFile=-{ENVIRONMENT}" in text.splitlines()


def test_the_configuration_is_kept_and_closed_to_others():
    files = by_path(system_files(CHOICES, TEMPLATE))
    assert [path for path, file in files.items() if file.is_kept] == [CONFIGURATION, ENVIRONMENT]
    assert {files[path].mode for path in (CONFIGURATION, ENVIRONMENT)} == {0o640}
    assert files["/etc/tmpfiles.d/llama-smart-proxy.conf"].text.splitlines() == [
        f"d {MODELS} 0755 root root -",
        f"z {CONFIGURATION} 0640 root llama-smart-proxy -",
        f"z {ENVIRONMENT} 0640 root llama-smart-proxy -",
    ]


def test_the_configuration_has_the_port_and_folders_that_were_chosen():
    assert yaml.safe_load(configuration(9000, ["/a b", '/"'])) == {
        "server": {"port": 9000},
        "catalog": {"models_dirs": ["/a b", '/"']},
    }
    assert yaml.safe_load(configuration(None, ())) is None


def test_an_existing_user_is_not_created():
    choices = InstallationChoices("/opt/x", "ann", creates_user=False, models_dirs=("/m",))
    files = by_path(system_files(choices, TEMPLATE))
    assert "/etc/sysusers.d/llama-smart-proxy.conf" not in files
    tmpfiles = files["/etc/tmpfiles.d/llama-smart-proxy.conf"].text
    assert tmpfiles == f"z {CONFIGURATION} 0600 ann - -\nz {ENVIRONMENT} 0600 ann - -\n"
    assert [command[0] for command in system_commands(False)] == ["systemd-tmpfiles", "systemctl"]


def test_a_users_unit_has_nothing_that_needs_rights():
    unit, config = user_files(CHOICES, TEMPLATE, "/home/ann/.config")
    names = {line.partition("=")[0] for line in unit.text.splitlines() if "=" in line and not line.startswith("#")}
    assert not [name for name in names if name.startswith(("Protect", "Private", "Capability", "Dynamic", "Limit"))]
    assert {"ExecStart=/opt/x/bin/llama-smart-proxy serve", "WantedBy=default.target"} <= set(unit.text.splitlines())
    assert (config.path, config.mode) == ("/home/ann/.config/llama-smart-proxy/config.yaml", 0o600)
