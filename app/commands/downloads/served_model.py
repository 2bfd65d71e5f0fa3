"""The model of `serve --model`: downloaded if it is not here, and what a request means that names none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from app.commands.options import INTERRUPTED, exit_wrong_use, logger_disabled, read_settings


def served_model_settings(model: str) -> dict[str, str]:
    """Settings, by their names in the environment without the prefix. The command ends if there is no such model."""
    path = Path(model).absolute()
    if path.is_file():
        return _settings(path.stem, {"path": str(path)})
    return _settings(_name_in_catalogue(model) or _downloaded(model), {})


def _settings(name: str, entry: dict[str, str]) -> dict[str, str]:
    return {"MODELS": json.dumps({name: entry}), "CATALOG__DEFAULT_MODEL": name}


def _name_in_catalogue(model: str) -> str:
    """ "" if it has to be downloaded. The command ends if it cannot be."""
    from app.use_cases.downloads.repository_names import InvalidName, parse_name

    try:
        name = parse_name(model)
    except InvalidName as error:
        problem = f"{model}: no such file" if _is_path(model) else f"no such file or model; {error}"
        return _known_name(model) or exit_wrong_use(problem)
    if not name.choice and name.repo.lower().endswith(".gguf"):
        return _known_name(model) or exit_wrong_use(f"{model}: no such file")
    return _known_name(model) or _known_name(str(name))


def _is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or (model.lower().endswith(".gguf") and "://" not in model)


def _known_name(model: str) -> str:
    from app.errors import ModelNotFound
    from workers.build_catalog import build_catalog

    with logger_disabled("workers.catalog.catalog"):  # `serve` logs the same
        catalog = build_catalog(read_settings(None))
    try:
        found = catalog.find(model)
    except ModelNotFound:
        return ""
    return "" if found.problem else found.name


def _downloaded(model: str) -> str:
    """The name of a model that `pull` downloads; if that fails, the command ends with its status.

    In a process of its own: the service forks, which a download's threads would not survive."""
    command = [sys.executable, "-P", "-m", "app.commands.cli", "pull", model, "--local", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pull:
        try:
            download, _ = pull.communicate()
        except KeyboardInterrupt:  # which the process got, too
            pull.wait()
            sys.exit(INTERRUPTED)
    if pull.returncode:
        sys.exit(pull.returncode)
    return str(json.loads(download)["model"])
