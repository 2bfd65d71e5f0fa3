"""What axe finds on a page."""

from __future__ import annotations

from typing import Any

SERIOUS = ("serious", "critical")


def serious_findings(page: Any) -> list[str]:
    """One line for each element with a serious finding."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{finding['id']}: {node['target']} {node['failureSummary']}"
        for finding in found
        if finding["impact"] in SERIOUS
        for node in finding["nodes"]
    ]
