"""The environments that packages of PyPI are installed into."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_builds.test_cuda_toolkit import a_program
from workers.engine_builds import python_environment
from workers.engine_builds.python_environment import install_packages
from workers.engine_builds.stopping import CannotContinue, Deadline

pytestmark = pytest.mark.integration


def test_an_environment_without_pip_is_repaired(tmp_path: Path):
    """What a Python without python3-venv leaves: the CUDA packages were not installed any more, even once it was there,
    because the environment had its python already."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    install_packages(tmp_path, ("pip",), Deadline(600), "not installed")
    assert (tmp_path / "complete").exists()


def test_a_python_without_venv_says_which_package_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    python = a_program(tmp_path / "python", "#!/bin/sh\necho ensurepip is not available\nexit 1\n")
    monkeypatch.setattr(python_environment.sys, "executable", str(python))
    with pytest.raises(CannotContinue, match=r"(?s)^cmake is missing: no Python.*apt install python3-venv.*ensurepip"):
        install_packages(tmp_path / "tools", ("cmake",), Deadline(60), "cmake is missing")
