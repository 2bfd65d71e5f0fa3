"""The systemd unit: the packaged one with the real paths and user, or what of it a user's service manager can do."""

from __future__ import annotations

import re

# Of the packaged unit, in a user's: the sandbox needs rights that a user's service manager does not have, and the
# program finds the user's own state and cache directories itself.
_USER_DIRECTIVES = {
    *("Description", "Type", "NotifyAccess", "WatchdogSec", "ExecStart", "ExecReload", "KillMode", "TimeoutStopSec"),
    *("Restart", "RestartSec", "OOMPolicy", "UMask"),
}
_DYNAMIC_USER = re.compile(r"^# A user that exists only while.*\nDynamicUser=yes$", re.MULTILINE)
_HEADER = re.compile(r"\A(#.*\n)+")


def system_unit(template: str, program: str, user: str) -> str:
    """The system's unit, which runs `program` as `user`."""
    text = _HEADER.sub("# Made by llama-smart-proxy install-service. Change it with systemctl edit.\n", template)
    return _DYNAMIC_USER.sub(f"User={user}", _with_program(text, program))


def user_unit(template: str, program: str) -> str:
    """A unit for the service manager of one user, without a sandbox. %E: the user's configuration directory."""
    lines = ["# Made by llama-smart-proxy install-service --user-service. Change it with systemctl --user edit."]
    for line in _with_program(template, program).splitlines():
        if line.startswith("["):
            lines += ["", line]
        elif line.partition("=")[0] in _USER_DIRECTIVES:
            lines.append(line)
    text = "\n".join(lines).replace("\n\n[Install]", f"\n{_USER_CONFIGURATION}\n\n[Install]")
    return f"{text}\nWantedBy=default.target\n"


_USER_CONFIGURATION = "Environment=LLAMA_SMART_PROXY_CONFIG=%E/llama-smart-proxy/config.yaml"


def _with_program(text: str, program: str) -> str:
    return re.sub(r"^ExecStart=\S+", lambda _: f"ExecStart={program}", text, flags=re.MULTILINE)
