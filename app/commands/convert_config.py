"""The command `convert-config`: another program's configuration file as ours."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands.options import exit_no, exit_wrong_use
from app.terminal.text import printable

if TYPE_CHECKING:
    from app.use_cases.migration.llama_swap import Conversion

_HEAD = "# Converted by `llama-smart-proxy convert-config`. All keys, with their defaults: config.example.yaml\n"


@click.command("convert-config")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: standard output]")
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
def convert_config(file: Path, output: Path | None, force: bool) -> None:
    """Convert llama-swap's configuration file to ours.

    Prints YAML that `check-config` accepts, and on standard error one line for each thing that has changed, has no
    setting here, or is no longer needed. Commands are read as text; nothing is run. Exit status: 0 converted, even
    if some models were not; 1 no model could be converted, or the output file exists; 2 not such a file.
    """
    if output is not None and output.exists() and not force:
        exit_no(f"{output} exists; nothing was written. --force replaces it")
    conversion = _conversion(file)
    settings, invalid = _valid_part(conversion)
    _print_to_stderr([*(remark.line() for remark in conversion.remarks), *invalid])
    if not settings.get("models"):
        exit_no("no model could be converted; nothing was written")
    _write(_HEAD + _yaml(settings), output)
    count = len(settings["models"])
    converted = f"{count} of {count + len(conversion.lost)} models converted"
    _print_to_stderr([f"{converted}; check with: llama-smart-proxy check-config --config {output or 'FILE'}"])


def _conversion(file: Path) -> Conversion:
    from app.settings.denied_options import why_argument_denied, why_variable_denied
    from app.settings.file import InvalidSettingsFile, read_file
    from app.use_cases.migration.llama_swap import NothingToConvert, convert_llama_swap
    from app.use_cases.migration.llama_swap_model import Allowed
    from app.use_cases.migration.macros import MacrosTooLarge

    try:
        data = read_file(file)
        return convert_llama_swap(data, os.environ, Allowed(why_argument_denied, why_variable_denied))
    except (InvalidSettingsFile, NothingToConvert, MacrosTooLarge) as error:
        exit_wrong_use(f"{file}: {error}")


def _valid_part(conversion: Conversion) -> tuple[dict[str, Any], list[str]]:
    """What `check-config` accepts, and a line for each key that it would not."""
    from app.settings.schema_keys import format_place
    from app.settings.valid_part import NoValidPart, valid_part

    try:
        settings, left_out = valid_part(conversion.settings)
    except NoValidPart as error:
        exit_no(f"cannot be converted: {error}")
    return settings, [f"not carried over: {format_place(place)}: {message}" for place, message in left_out]


def _yaml(settings: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        exit_no(f"{output} cannot be written: {error.strerror}")


def _print_to_stderr(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(printable(line), err=True)
