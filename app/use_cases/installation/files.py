"""The files that an installation consists of, and the commands that put them into force."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from app.use_cases.installation.unit import system_unit, user_unit

NAME = "llama-smart-proxy"
MODELS = f"/srv/{NAME}/models"  # where no folder is chosen
CONFIGURATION = f"/etc/{NAME}/config.yaml"
ENVIRONMENT = f"/etc/{NAME}/environment"


@dataclass(frozen=True, slots=True)
class InstallationChoices:
    """What the operator chose. `models_dirs`: none: MODELS, which is created."""

    program: str
    user: str
    creates_user: bool = True
    port: int | None = None
    models_dirs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to write. The operator's own (`is_kept`) is written only if there is none."""

    path: str
    text: str
    mode: int = 0o644
    is_kept: bool = False


def system_files(choices: InstallationChoices, template: str) -> list[PlannedFile]:
    """`template`: the packaged unit."""
    folders = choices.models_dirs or (MODELS,)
    users = [PlannedFile(f"/etc/sysusers.d/{NAME}.conf", _sysusers(choices.user))] if choices.creates_user else []
    return [
        *users,
        PlannedFile(f"/etc/systemd/system/{NAME}.service", system_unit(template, choices.program, choices.user)),
        PlannedFile(CONFIGURATION, configuration(choices.port, folders), 0o640, is_kept=True),
        PlannedFile(ENVIRONMENT, f"LLAMA_SMART_PROXY_CONFIG={CONFIGURATION}\n", 0o640, is_kept=True),
        PlannedFile(f"/etc/tmpfiles.d/{NAME}.conf", _tmpfiles(choices)),
    ]


def user_files(choices: InstallationChoices, template: str, config_home: str) -> list[PlannedFile]:
    """For the service manager of the user. `config_home`: ~/.config."""
    return [
        PlannedFile(f"{config_home}/systemd/user/{NAME}.service", user_unit(template, choices.program)),
        PlannedFile(
            *(f"{config_home}/{NAME}/config.yaml", configuration(choices.port, choices.models_dirs), 0o600, True)
        ),
    ]


def system_commands(creates_user: bool) -> list[tuple[str, ...]]:
    users = [("systemd-sysusers", f"/etc/sysusers.d/{NAME}.conf")] if creates_user else []
    return [
        *users,
        ("systemd-tmpfiles", "--create", f"/etc/tmpfiles.d/{NAME}.conf"),
        ("systemctl", "daemon-reload"),
    ]


def configuration(port: int | None, models_dirs: Sequence[str]) -> str:
    """A configuration to start from. A string of JSON is one of YAML, whatever is in the path."""
    lines = ["# Every key: config.example.yaml and docs/configuration.md. Check it: llama-smart-proxy check-config"]
    if port is not None:
        lines.append(f"server: {{port: {port}}}")
    if models_dirs:
        lines += ["catalog:", "  models_dirs:", *(f"    - {json.dumps(folder)}" for folder in models_dirs)]
    return "\n".join([*lines, ""])


def _sysusers(user: str) -> str:
    """NVIDIA's device files, and those of Vulkan, may belong to these groups."""
    return f'u {user} - "Llama Smart Proxy" /var/lib/{NAME}\nm {user} video\nm {user} render\n'


def _tmpfiles(choices: InstallationChoices) -> str:
    """The configuration may hold secrets: only root and the service read it. The name of another user's group is not
    known."""
    folder = [] if choices.models_dirs else [f"d {MODELS} 0755 root root -"]
    access = f"0640 root {choices.user}" if choices.creates_user else f"0600 {choices.user} -"
    owned = [f"z {path} {access} -" for path in (CONFIGURATION, ENVIRONMENT)]
    return "\n".join([*folder, *owned, ""])
