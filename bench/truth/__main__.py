"""llama.cpp's own memory figures, without a GPU and without building llama.cpp: python -m bench.truth COMMAND

    python -m bench.truth row qwen3-8b Q4_K_M --devices 2:24576,12288 -- -c 32768 -np 4 -ctk q8_0 -ctv q8_0
    python -m bench.truth row qwen3-8b Q4_K_M --devices 0:0 -- -c 32768          # on the CPU
    python -m bench.truth measure STARTS.csv OUT.csv     # columns set, shape, quant, devices, args; others are ignored
    python -m bench.truth blind --seed 7 --rows 400 OUT.csv
    python -m bench.truth check OUT.csv                  # how the estimates do on it
    python -m bench.truth add OUT.csv                    # among the recorded rows
    python -m bench.truth changes [--quick] [--record]   # what the installed engine says otherwise; status 1 if any

The tool is built (ten seconds, a C++ compiler) for the installed xllamacpp, from the source package of the same
version: --sdist FILE, or ENGINE_SDIST in the environment, else the package index. It is kept in build/truth, with the
models: sparse files, of which 150 take 500 MB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.truth.commands import add, changed, check, measured, of_file
from bench.truth.draw import drawn_starts
from bench.truth.measure import PROCESSES, Bench
from bench.truth.table import Start, read_starts, write_rows
from bench.truth.tool import WORK, built_tool
from workers.engine_builds.stopping import CannotContinue


def main(argv: Sequence[str] | None = None) -> int:
    ours, server_args = _at_dashes(sys.argv[1:] if argv is None else list(argv))
    options = _parser().parse_args(ours)
    options.args = server_args
    try:
        return int(options.run(options) or 0)
    except CannotContinue as error:
        print(error, file=sys.stderr)
        return 2


def _at_dashes(argv: list[str]) -> tuple[list[str], list[str]]:
    """What is before "--" and what is behind it: argparse takes no options of others behind its own."""
    where = argv.index("--") if "--" in argv else len(argv)
    return argv[:where], argv[where + 1 :]


def _build(options: argparse.Namespace) -> None:
    print(built_tool(options.sdist, options.work))


def _row(options: argparse.Namespace) -> None:
    args = " ".join([*options.args, "-fit", "off"])
    start = Start("", options.shape, options.quant, options.devices, args)
    print(json.dumps(dataclasses.asdict(_bench(options).figures(start)), indent=1))


def _measure(options: argparse.Namespace) -> None:
    starts = read_starts(options.starts)
    write_rows(options.out, measured(_bench(options), starts, options.processes))


def _blind(options: argparse.Namespace) -> None:
    starts = drawn_starts(options.set, options.seed, options.rows)
    write_rows(options.out, measured(_bench(options), starts, options.processes))


def _check(options: argparse.Namespace) -> None:
    check(of_file(options.rows))


def _add(options: argparse.Namespace) -> None:
    add(of_file(options.rows))


def _changes(options: argparse.Namespace) -> int:
    return changed(_bench(options), options.sdist, options.work, options.quick, options.record, options.processes)


def _bench(options: argparse.Namespace) -> Bench:
    return Bench(built_tool(options.sdist, options.work), options.work.absolute() / "models")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.truth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--sdist", type=Path, help="source package of the installed xllamacpp, or its folder")
    common.add_argument("--work", type=Path, default=WORK, help="where the tool and the models are (%(default)s)")
    common.add_argument("--processes", type=int, default=PROCESSES, help="starts at a time (%(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help_: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help_, parents=[common])
        found.set_defaults(run=run)
        return found

    command("build", _build, "build the tool, and print where it is")
    row = command("row", _row, "measure one start, in MiB")
    row.add_argument("--devices", default="1:900000", help="COUNT:MIB,MIB (%(default)s)")
    row.add_argument("shape", help="a model of bench/data/vram/headers.json")
    row.add_argument("quant", help="then --, and llama-server's arguments")
    measure = command("measure", _measure, "measure the starts of a table")
    measure.add_argument("starts", type=Path)
    measure.add_argument("out", type=Path)
    blind = command("blind", _blind, "draw random realistic starts over all models, and measure them")
    blind.add_argument("--seed", type=int, required=True)
    blind.add_argument("--rows", type=int, default=400, help="(%(default)s)")
    blind.add_argument("--set", default="blind", help="the rows' set (%(default)s)")
    blind.add_argument("out", type=Path)
    for name, run, help_ in (
        ("check", _check, "compare the estimates with measured rows"),
        ("add", _add, "add measured rows to the recorded ones"),
    ):
        command(name, run, help_).add_argument("rows", type=Path)
    changes = command("changes", _changes, "measure the recorded starts again with the installed engine")
    changes.add_argument("--quick", action="store_true", help="three rows of each architecture")
    changes.add_argument("--record", action="store_true", help="keep what it says now: rows, version, architectures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
