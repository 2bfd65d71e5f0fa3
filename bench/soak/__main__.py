"""Injects faults into a running service for minutes or hours while clients use it, and checks what it promises.

    python -m bench.soak [--minutes M] [--seed N] [--faults A,B] [--json] [--record FILE] [--plot FILE.svg]

The service is the real one: command line, gunicorn, the embedded engine, and a scripted engine for what a real one does
not do on demand. Its GPUs are a fake NVML's, whose memory follows the engines. A fault begins every 2.5 s on average,
four at most at the same time; `--list` names them. The same seed gives the same plan.

Checked: every request ends in an answer or a clear error (docs/errors.md). /health is asked ten times a second, and
99.99 % of the answers arrive within a second. At rest, after a warm-up and at the end, the service holds as much memory
and as many descriptors, threads and processes. There are no zombies and no tracebacks. A stop leaves nothing behind.
Exit status 1: one of these failed.

At the end the service itself is killed several times, its worker or all of it. What clients see then (connections that
are refused, answers that are cut) is counted for itself, and /health is not probed; checked is that it is back soon,
that nothing of the killed one is left, and that later requests are answered.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.record import record
from bench.soak.faults import FAULTS
from bench.soak.kills import KILLS
from bench.soak.run import soak


def main() -> None:
    options = _options()
    if options.list:
        print("\n".join(sorted(FAULTS | KILLS)))
        return
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        made = soak(Path(folder), 60 * options.minutes, options.seed, options.warm_up, options.faults)
    print(json.dumps(made) if options.json else report(made))
    if options.record:
        record(options.record, made, minutes=options.minutes, seed=options.seed)
    if options.plot:
        from bench.soak.plot import draw

        draw(options.plot, made)
    sys.exit(not made["passed"])


def report(made: dict[str, Any]) -> str:
    """The figures, without those for the plot."""
    shown = {name: value for name, value in made.items() if name not in ("samples", "probes", "faults_begun")}
    return json.dumps(shown, indent=2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="duration (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the plan and of all choices (default: 0)")
    parser.add_argument(
        "--warm-up", type=float, default=40, help="seconds of faults before the first rest (default: 40)"
    )
    parser.add_argument("--faults", type=lambda text: text.split(","), default=[], help="only these kinds")
    parser.add_argument("--list", action="store_true", help="print the kinds of faults")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--record", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="write a plot to this file; needs matplotlib")
    options = parser.parse_args()
    if unknown := set(options.faults) - set(FAULTS | KILLS):
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    if options.plot and not importlib.util.find_spec("matplotlib"):  # fail now, not after the run
        parser.error("--plot needs matplotlib: pip install '.[bench]'")
    return options


if __name__ == "__main__":
    main()
