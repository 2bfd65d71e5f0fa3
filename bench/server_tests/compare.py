"""Compares the outcome of each test, direct and through the proxy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bench.server_tests.options import reason

Outcomes = Mapping[str, Mapping[str, str]]


def compared(direct: Outcomes, through: Outcomes) -> dict[str, Any]:
    """Counts of tests that pass both ways; names of those that pass only directly, skipped with a reason or failed."""
    passed = [test for test, seen in direct.items() if seen["outcome"] == "passed"]
    both = [test for test in passed if _outcome(through, test) == "passed"]
    missing = [test for test in passed if test not in both]
    why = {test: through.get(test, {}).get("left_out") or reason(test) for test in missing}
    return {
        "pass_direct": len(passed),
        "pass_both": len(both),
        "fail_through": {test: through.get(test, {}).get("why", "") for test in missing if not why[test]},
        "left_out": {
            each: sorted(test for test in missing if why[test] == each) for each in sorted({*why.values()} - {""})
        },
        "reasons_too_many": sorted(test for test in both if reason(test)),
        "not_compared": dict(Counter(seen["outcome"] for test, seen in direct.items() if test not in passed)),
        "fail_direct": sorted(test for test, seen in direct.items() if seen["outcome"] == "failed"),
    }


def _outcome(seen: Outcomes, test: str) -> str:
    return seen.get(test, {}).get("outcome", "not run")


def report(made: Mapping[str, Any]) -> str:
    """The comparison as text."""
    lines = [
        f"llama.cpp {made['llama.cpp']}, engine {made['engine']}",
        f"passed directly: {made['pass_direct']}; of these through the proxy: {made['pass_both']}",
        f"not compared, by direct outcome: {made['not_compared']}",
    ]
    for why, tests in made["left_out"].items():
        lines += [f"skipped: {why}", *(f"  {test}" for test in tests)]
    lines += [f"FAILS THROUGH THE PROXY: {test}\n  {why}" for test, why in made["fail_through"].items()]
    lines += [f"passes, though options.py lists it as skipped: {test}" for test in made["reasons_too_many"]]
    return "\n".join(lines)
