"""The tools of a build, with scripts in place of them and of Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine_builds.test_cuda_toolkit import a_program
from workers.engine_builds import python_environment
from workers.engine_builds.build_tools import build_tools
from workers.engine_builds.stopping import CannotContinue, Deadline

pytestmark = pytest.mark.integration

# As `python -P -m venv FOLDER`: the pip in it writes down what it is asked for.
PYTHON = """\
#!/bin/sh
[ "$1 $3" = "-P venv" ] || exit 1
/bin/mkdir -p "$4/bin"
printf '#!/bin/sh\\necho "$@" >>"%s/asked"\\n{ending}\\n' "$4" >"$4/bin/python"
/bin/chmod +x "$4/bin/python"
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, with a compiler."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)
    a_program(tmp_path / "bin/c++", "#!/bin/sh\n")
    return tmp_path / "bin"


def use_python(folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str = "exit 0") -> None:
    python = a_program(folder / "python", PYTHON.replace("{ending}", ending))
    monkeypatch.setattr(python_environment.sys, "executable", str(python))


def test_without_a_compiler_nothing_is_begun(tmp_path: Path, tools: Path):
    (tools / "c++").unlink()
    with pytest.raises(
        CannotContinue, match=r"^no C\+\+ compiler: install one .*apt install g\+\+.*same command again$"
    ):
        build_tools(tmp_path / "cache", Deadline(60.0))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("generator", ["ninja", "make"])
def test_the_system_s_tools_are_used_where_it_has_them(tmp_path: Path, tools: Path, generator: str):
    for name in ("cmake", generator):
        a_program(tools / name, "#!/bin/sh\n")
    assert build_tools(tmp_path / "cache", Deadline(60.0)) == ()


@pytest.mark.parametrize("there", ["", "cmake", "ninja"])
def test_what_is_missing_comes_from_pypi_once(tmp_path: Path, tools: Path, there: str, monkeypatch):
    if there:
        a_program(tools / there, "#!/bin/sh\n")
    use_python(tmp_path, monkeypatch)
    folder = tmp_path / "cache/engines/.tools"
    assert build_tools(tmp_path / "cache", Deadline(60.0)) == (str(folder / "bin"),)
    assert build_tools(tmp_path / "cache", Deadline(60.0)) == (str(folder / "bin"),)
    (asked,) = (folder / "asked").read_text().splitlines()
    assert asked.startswith("-P -m pip install ") and asked.endswith(
        "--only-binary=:all: cmake>=3.28,<5 ninja>=1.11,<2"
    )


def test_where_pypi_cannot_be_reached_the_system_s_package_is_named_and_the_next_run_tries_again(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
):
    use_python(tmp_path, monkeypatch, ending="echo no route; exit 1")
    with pytest.raises(CannotContinue, match=r"^cmake is not on PATH .*apt install cmake ninja-build"):
        build_tools(tmp_path / "cache", Deadline(60.0))
    use_python(tmp_path, monkeypatch)
    assert build_tools(tmp_path / "cache", Deadline(60.0))
