"""A real engine that is stopped (SIGSTOP) in the middle of its requests."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers.service import ENDLESS, has_exited, serving, wait_for


def test_an_engine_that_hangs_is_replaced_and_says_so(tmp_path: Path):
    """Its requests were answered 504 and all later ones 503, for ever, with /health `ok`."""
    settings = {"SCHEDULING__HANG_TIMEOUT_SECONDS": "1.5", "DEFAULTS__PARALLEL": "2"}
    with serving(tmp_path, **settings) as service, ThreadPoolExecutor(4) as pool:
        stream = service.chat(stream=True, **ENDLESS)
        lines = stream.iter_lines()
        began_at = time.monotonic()
        while time.monotonic() < began_at + 3:
            next(lines)  # an engine that works is left alone for twice as long
        (engine,) = service.engines()
        engine.send_signal(signal.SIGSTOP)
        chats = [pool.submit(service.chat) for _ in range(3)]  # one in its free slot, two wait
        wait_for(lambda: "has not responded for" in str(service.get("/health").json()["reasons"]), 30)
        assert sorted(chat.result().status_code for chat in chats) == [200, 200, 504]
        assert '"code": "upstream_timeout"' in [line.decode() for line in lines if line][-1]
        (failed,) = [chat.result() for chat in chats if chat.result().status_code == 504]
        assert "has not responded for" in failed.json()["error"]["message"]
        assert has_exited(engine)
        wait_for(lambda: [server["requests"] for server in service.servers()] == [0], 10)
        assert service.get("/health").json()["degraded"] is False
        decisions = service.get("/decisions").json()["decisions"]
        assert "with 2 running and 2 waiting requests" in next(d["reason"] for d in decisions if d["outcome"] == "stop")
        metrics = service.get("/metrics").text
        assert 'server_stops_total{model="demo",reason="hung"} 1.0' in metrics
        assert (
            'requests_total{code="504",endpoint="/v1/chat/completions",model="demo"} 2.0' in metrics
        )  # the stream, too
        assert 'suspect_requests{action="run_alone"} 0.0' in metrics, "a hang is no request's fault"
        wait_for(lambda: "why=hung" in service.output, 10)
