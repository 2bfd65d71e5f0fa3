"""The tools of bench.relay: the service accepts its fake llama-server, and its streams count every token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.relay import steps
from bench.relay.bounds import bounds
from bench.relay.cases import SLOW
from bench.relay.figures import figures
from bench.relay.load import Figures, Streams, burst
from bench.relay.stand_in import COMPILER, Programs, compiled, upstream
from bench.relay.systems import MODELS, Running, Surroundings, direct, ours

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc) for the stand-in llama-server"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return compiled(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def service(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ours(Surroundings(tmp_path_factory.mktemp("ours"), programs, 0)) as running:
        yield running


def ten_tokens_each(programs: Programs, port: int, count: int) -> Figures:
    """Figures of `count` streams of ten tokens, at a hundred tokens per second."""
    return Streams(programs.streams, port, 1, count, 100, 10, 0, 20, 0, 0, 0).result()


def whole(count: int) -> Figures:
    return {"opened": count, "refused": 0, "ended": count, "cut": 0, "statuses": {"200": count}}


def test_the_service_takes_the_stand_in_for_its_engine(service: Running):
    assert service.service is not None
    assert {server["state"] for server in service.service.servers()} == {"ready"}
    answer = service.service.chat(MODELS[1]).json()
    assert (answer["model"], answer["usage"]["completion_tokens"]) == (MODELS[1], 1)


def test_its_stream_comes_through_the_service(service: Running):
    assert service.service is not None
    with service.service.chat(MODELS[0], stream=True, max_tokens=3, rate=100) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert [line[:5] for line in lines] == [b"data:"] * 4
    assert [b"sent_ns=" in line for line in lines] == [True, True, True, False]
    assert lines[3] == b"data: [DONE]"


def test_every_token_through_the_service_is_counted(service: Running, programs: Programs):
    seen = ten_tokens_each(programs, service.port, 8)
    assert (seen["tokens"], seen["streams"]) == (80, whole(8))
    # The first token of each stream is reported separately, not in the latency.
    assert (seen["latency_ms"]["count"], seen["first_token_ms"]["count"]) == (72, 8)


def test_every_token_is_counted_without_a_proxy(programs: Programs, tmp_path: Path):
    with upstream(programs) as port, direct(Surroundings(tmp_path, programs, port)) as running:
        seen = ten_tokens_each(programs, running.port, 300)
    assert (seen["tokens"], seen["streams"]) == (3000, whole(300))


def test_a_burst_counts_missing_answers(programs: Programs, tmp_path: Path):
    """The fake server answers all; once it has stopped listening, none is answered."""
    with upstream(programs) as port:
        assert burst(programs.streams, Running(port, list))["statuses"] == {"200": 2000}
    assert burst(programs.streams, Running(port, list))["unanswered"] == 2000


def a_round(ours_us: float, nginx_us: float) -> dict[str, dict[object, Figures]]:
    names = ("tokens_per_s", "p50_ms", "p99_ms", "ttft_p50_ms", "ttft_p99_ms", "mb_per_100_streams", "failed")
    return {
        name: {SLOW: {**dict.fromkeys(names, 1.0), "cpu_us_per_token": cost}}
        for name, cost in (("ours", ours_us), ("nginx", nginx_us))
    }


def test_ratios_are_taken_within_a_round():
    """30 / 20, 60 / 50 and 90 / 45: their median is not the ratio of the medians, 60 / 45."""
    rounds = [a_round(30, 20), a_round(60, 50), a_round(90, 45)]
    [ratio] = [each for each in figures(rounds)["ratios"] if each["figure"] == "cpu_us_per_token"]
    assert (ratio["median"], ratio["spread"]) == (1.5, [1.2, 2.0])
    [bound] = [each for each in bounds(rounds) if each["bound"] == "256 x 50: CPU per token, of nginx"]
    assert (bound["measured"], bound["at_most"], bound["holds"]) == (1.5, 1.6, True)


def test_a_real_llama_server_is_held_against_its_own_router_mode():
    """90 / 100 and 99 / 100; the small answers of the stand-in say nothing about it."""
    seen = [{"ours-real": 90.0, "router": 100.0, "ours": 1.0}, {"ours-real": 99.0, "router": 100.0, "ours": 1.0}]
    rounds = [{name: {"small": {"requests_per_s": rate}} for name, rate in each.items()} for each in seen]
    [bound] = [each for each in bounds(rounds) if "router" in each["bound"]]
    assert (bound["measured"], bound["at_least"], bound["holds"]) == (0.945, 0.95, False)


def test_every_step_of_a_request_runs(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """bench.relay.steps calls the parts of the service one by one; it broke when one of them was renamed."""
    for name in ("XDG_STATE_HOME", "LLAMA_SMART_PROXY_CONFIG"):  # set by the bench, restored after the test
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(steps, "BATCHES", 1)
    monkeypatch.setattr(steps, "BATCH", 1)
    assert all(microseconds > 0 for microseconds in steps._steps(tmp_path, programs).values())
