"""`install-service`, in a directory of its own: what it writes, keeps, and refuses to replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from workers.installation.files import closed_folder

UNIT = "etc/systemd/system/llama-smart-proxy.service"
CONFIG = "etc/llama-smart-proxy/config.yaml"


def install(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["install-service", "--root", str(root), *arguments])


def test_a_second_run_changes_nothing(tmp_path: Path):
    before = os.umask(0o077)
    first = install(tmp_path, "--port", "9000")
    os.umask(before)
    assert first.exit_code == 0 and f"write      {tmp_path}/{UNIT}" in first.output.splitlines()
    assert "sudo systemctl enable --now llama-smart-proxy" in first.output
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(files) == 5 and "port: 9000" in (tmp_path / CONFIG).read_text()
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in (CONFIG, UNIT, "etc")] == [0o640, 0o644, 0o755]
    second = install(tmp_path, "--port", "9000")
    assert second.exit_code == 0 and second.output.count("unchanged") == 5
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_changed_file_is_shown_and_replaced_only_by_force(tmp_path: Path):
    install(tmp_path)
    unit = tmp_path / UNIT
    made = unit.read_text()
    unit.write_text(made.replace("WatchdogSec=60", "WatchdogSec=5"))
    (tmp_path / "etc/tmpfiles.d/llama-smart-proxy.conf").unlink()
    refused = install(tmp_path)
    assert refused.exit_code == 1 and {"-WatchdogSec=5", "+WatchdogSec=60"} <= set(refused.output.splitlines())
    assert "nothing was written: 1 of the files differ" in refused.output
    assert not (tmp_path / "etc/tmpfiles.d/llama-smart-proxy.conf").exists()
    assert install(tmp_path, "--force").exit_code == 0
    assert unit.read_text() == made


def test_the_configuration_is_never_replaced(tmp_path: Path):
    install(tmp_path)
    (tmp_path / CONFIG).write_text("server: {port: 1}\n")
    done = install(tmp_path, "--force", "--port", "2")
    assert done.exit_code == 0 and f"keep       {tmp_path}/{CONFIG}" in done.output.splitlines()
    assert (tmp_path / CONFIG).read_text() == "server: {port: 1}\n"


def test_a_dry_run_shows_everything_and_writes_nothing(tmp_path: Path):
    done = install(tmp_path, "--dry-run", "--models-dir", str(tmp_path))
    assert done.exit_code == 0 and not list(tmp_path.iterdir())
    assert "    User=llama-smart-proxy" in done.output.splitlines()
    assert f'        - "{tmp_path}"' in done.output.splitlines()
    assert "run systemctl daemon-reload" in done.output.splitlines()


def test_without_root_it_says_the_command_with_sudo(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("app.commands.install_service._check_access", lambda program, user: None)
    done = CliRunner().invoke(main, ["install-service"])
    assert done.exit_code == 1 and "requires root:\n  sudo /" in done.stderr


def test_a_program_in_a_closed_folder_is_not_installed_for_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    closed = tmp_path / "home"
    program = closed / "venv/bin/llama-smart-proxy"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    closed.chmod(0o700)
    assert closed_folder(program, None) in (closed, *closed.parents)
    done = CliRunner().invoke(main, ["install-service", "--prefix", str(closed / "venv")])
    assert done.exit_code == 1 and "is closed to others" in done.stderr
    assert "sudo /usr/bin/python3 -m venv /opt/llama-smart-proxy/.venv" in done.stderr


@pytest.mark.parametrize("arguments", [("--user", "a b"), ("--prefix", "/usr")])
def test_wrong_use_is_exit_2(tmp_path: Path, arguments: tuple[str, str]):
    assert install(tmp_path, *arguments).exit_code == 2


def test_a_user_service_is_written_to_the_users_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/ann/.config")
    done = install(tmp_path, "--user-service")
    assert done.exit_code == 0 and "loginctl enable-linger" in done.output
    assert (tmp_path / "home/ann/.config/systemd/user/llama-smart-proxy.service").exists()
    assert not (tmp_path / "etc").exists()
