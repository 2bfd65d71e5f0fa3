"""The command `install-service`: a systemd unit for this installation, with its user and configuration."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.commands.options import exit_no, exit_wrong_use

if TYPE_CHECKING:
    from app.use_cases.installation.files import InstallationChoices, PlannedFile
    from workers.installation.files import FileChange

_NAME = "llama-smart-proxy"
_PREFIX = f"/opt/{_NAME}/.venv"


@click.command("install-service")
@click.option("--user", default=_NAME, show_default=True, help="User that the service runs as; created if missing.")
@click.option(
    "--prefix",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Virtual environment whose bin/llama-smart-proxy is started.  [default: this program's]",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on, in a new configuration.")
@click.option(
    "--models-dir",
    "models_dirs",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Folder with *.gguf files, in a new configuration. May be repeated.  [default: /srv/llama-smart-proxy/models]",
)
@click.option("--user-service", is_flag=True, help="Install for your own service manager (systemctl --user).")
@click.option("--force", is_flag=True, help="Replace files that differ; never the configuration.")
@click.option("--dry-run", is_flag=True, help="Show the files and commands, and do nothing.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Write below this directory, as for an image; run no commands."
)
def install_service(
    user: str,
    prefix: Path | None,
    port: int | None,
    models_dirs: tuple[Path, ...],
    user_service: bool,
    force: bool,
    dry_run: bool,
    root: Path | None,
) -> None:
    """Install this program as a systemd service.

    Writes the unit, the system user, the configuration (only if there is none) and what creates the model folder, and
    says how to start it. Run again, it changes nothing; a file that differs is shown and replaced only with --force.
    Exit status: 0 installed, 1 not installed, 2 wrong use.
    """
    from app.use_cases.installation.files import InstallationChoices

    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", user):
        exit_wrong_use(f"--user {user!r} is not the name of a user")
    program = (prefix or Path(sys.prefix)).absolute() / "bin" / _NAME
    _check_program(program)
    folders = [str(folder.absolute()) for folder in models_dirs]
    choices = InstallationChoices(str(program), user, _uid(user) is None or user == _NAME, port, folders)
    changes = _changes(_planned(choices, user_service), root)
    commands = _commands(choices, user_service)
    if dry_run:
        _show(changes, commands)
    if not (root or user_service):
        _check_access(program, user)
    if dry_run:
        return
    if not (root or user_service or os.geteuid() == 0):
        exit_no(f"writing to /etc requires root:\n  sudo {shlex.join([str(program), *sys.argv[1:]])}")
    _install(changes, force)
    failed = [] if root else [command for command in commands if not _runs(command)]
    click.echo("\n".join(_next_steps(choices, user_service)))
    if failed:
        exit_no(f"failed: {'; '.join(shlex.join(command) for command in failed)}")


def _check_program(program: Path) -> None:
    if not os.access(program, os.X_OK):
        exit_wrong_use(f"{program} does not exist; --prefix is a virtual environment with {_NAME}")
    if re.search(r"[\s%\"'\\$;]", str(program)):
        exit_wrong_use(f"{program}: a unit needs a path without spaces and special characters")


def _check_access(program: Path, user: str) -> None:
    """End the command if this user could not run the program, or the Python that it is installed for."""
    from workers.installation.files import closed_folder

    for file in (program, (program.parent / "python").resolve()):
        if closed := closed_folder(file, _uid(user)):
            exit_no(
                f"the user {user} cannot run {file}: {closed} is closed to others. Install the program where everybody"
                f" can read it, from its checkout:\n  sudo /usr/bin/python3 -m venv {_PREFIX}\n"
                f"  sudo {_PREFIX}/bin/pip install --constraint constraints.txt '.[embedded]'\n"
                f"  sudo {_PREFIX}/bin/{_NAME} install-service\n"
                f"or install it for yourself alone: {_NAME} install-service --user-service"
            )


def _uid(user: str) -> int | None:
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _planned(choices: InstallationChoices, user_service: bool) -> list[PlannedFile]:
    from app.use_cases.installation.files import system_files, user_files
    from workers.folders import UNIT_FILE

    template = UNIT_FILE.read_text()
    if not user_service:
        return system_files(choices, template)
    config_home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return user_files(choices, template, config_home)


def _commands(choices: InstallationChoices, user_service: bool) -> list[tuple[str, ...]]:
    from app.use_cases.installation.files import system_commands

    return [("systemctl", "--user", "daemon-reload")] if user_service else system_commands(choices.creates_user)


def _changes(files: Sequence[PlannedFile], root: Path | None) -> list[FileChange]:
    from workers.installation.files import change_of

    try:
        return [change_of(file, root or Path("/")) for file in files]
    except OSError as error:
        exit_no(f"{error.filename} cannot be read: {error.strerror}")


def _show(changes: Sequence[FileChange], commands: Sequence[tuple[str, ...]]) -> None:
    for change in changes:
        click.echo(f"{change.verb} {change.path}")
        lines = change.diff() if change.replaces else change.file.text.splitlines() if change.is_due else []
        click.echo("".join(f"    {line}\n" for line in lines), nl=False)
    for command in commands:
        click.echo(f"run {shlex.join(command)}")


def _install(changes: Sequence[FileChange], force: bool) -> None:
    """Write what is due, or nothing if that would replace something without --force."""
    from workers.installation.files import write_change

    replaced = [change for change in changes if change.replaces]
    if replaced and not force:
        for change in replaced:
            click.echo("\n".join(change.diff()))
        exit_no(f"nothing was written: {len(replaced)} of the files differ, as shown; --force replaces them")
    for change in changes:
        if change.is_due:
            try:
                write_change(change)
            except OSError as error:
                exit_no(f"{change.path} cannot be written: {error.strerror}")
        click.echo(f"{change.verb:<9}  {change.path}")


def _runs(command: tuple[str, ...]) -> bool:
    import subprocess

    click.echo(f"run        {shlex.join(command)}")
    try:
        return subprocess.run(command, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        click.echo(f"{command[0]}: {error}", err=True)
        return False


def _next_steps(choices: InstallationChoices, user_service: bool) -> list[str]:
    from app.use_cases.installation.files import CONFIGURATION, MODELS

    if user_service:
        return [
            "Next:",
            f"  systemctl --user enable --now {_NAME}",
            f"  systemctl --user status {_NAME}",
            "  loginctl enable-linger            # so that it runs while you are not logged in",
        ]
    folders = ", ".join(choices.models_dirs or (MODELS,))
    return [
        f"Models are read from {folders}; settings are in {CONFIGURATION}. Next:",
        f"  sudo systemctl enable --now {_NAME}",
        f"  systemctl status {_NAME}",
        f"  sudo -u {choices.user} env STATE_DIRECTORY=/var/lib/{_NAME} CACHE_DIRECTORY=/var/cache/{_NAME} \\",
        f"    {choices.program} doctor --config {CONFIGURATION}",
    ]
