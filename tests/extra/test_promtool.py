"""Prometheus's own opinion of /metrics."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.service import serving


def test_promtool_finds_nothing_to_say(tmp_path: Path):
    with serving(tmp_path) as service:
        assert service.chat().status_code == 200
        page = service.get("/metrics").text
    assert "llama_smart_proxy_requests_total{" in page  # promtool is content with an empty page
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
