"""Fault 42: the clock is set."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WALL_CLOCK = re.compile(
    r"\btime\.(?:time|time_ns|localtime|gmtime|ctime|strftime)\(|\bdatetime\b.*\b(?:now|today|utcnow)\("
)

# Each shows the time to people or stores it. Nothing waits or ends by it.
READERS = {
    "app/commands/service/decisions.py",  # beside which other days are shown with their date
    "app/commands/service/top.py",  # the same
    "app/routes/agent_exchange.py",  # `created` of an answer
    "app/routes/download_orders.py",  # `started_at` of a download
    "app/routes/loading_stream.py",  # `created` of a chunk
    "app/routes/ollama.py",  # `expires_at` in /api/ps
    "app/routes/ollama_answer.py",  # `created_at` of an answer
    "app/routes/request_record.py",  # of a request's end
    "app/routes/status_report.py",  # `at`
    "workers/downloads/task.py",  # `started_at` of a download
    "workers/engine_metrics/series.py",  # of a reading
    "workers/logs/engine_log.py",  # of a line
    "workers/logs/files.py",  # beside the days on which files were written
    "workers/measurement/history.py",  # of a row
    "workers/pool/decision_log.py",  # of a decision
    "workers/reload.py",  # of a reload
    "workers/server/kept_cache.py",  # of a saved file
    "workers/telemetry/families.py",  # `_created` of a series
    "workers/telemetry/gpu_gauges.py",  # of a reading
    "workers/telemetry/store.py",  # of the first configuration
}


def test_the_wall_clock_is_read_only_for_people():
    """Timeouts, ages and orders come from `time.monotonic()`: a clock that jumps unloads nothing."""
    sources = [path for folder in ("app", "workers") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in sources if WALL_CLOCK.search(path.read_text())}
    assert found == READERS
