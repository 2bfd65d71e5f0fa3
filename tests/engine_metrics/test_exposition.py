"""An engine's own metrics page among ours."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from app.ports import Address
from app.use_cases.scheduling import events as ev
from tests.helpers.builders import Play, a_model
from workers.engine_metrics.exposition import MAX_SAMPLES, engine_metrics, merged_families
from workers.engine_metrics.series import EngineSeries
from workers.telemetry.gauges import Gauges
from workers.telemetry.store import StateStore

PAGE = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 25
# HELP llamacpp:n_tokens_max Largest observed sequence length (prompt + generation)
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max 28
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 0

"""


def shown(series: EngineSeries, encode=generate_latest) -> str:
    registry = CollectorRegistry()
    registry.register(series)
    return encode(registry).decode()


def an_answer(server: int, model: str = "a", page: str = PAGE) -> tuple[Address, bytes]:
    return Address(server, model, 9000, "key"), page.encode()


def test_names_lose_their_colon_and_keep_type_help_and_value():
    play = Play()
    server = play.up(a_model("a"))
    series = EngineSeries(lambda: play.state.servers)
    series.publish([an_answer(server)])
    page = shown(series)
    for line in (
        "# HELP llamacpp_prompt_tokens_total Number of prompt tokens processed, excluding cached tokens",
        "# TYPE llamacpp_prompt_tokens_total counter",
        f'llamacpp_prompt_tokens_total{{model="a",server="{server}"}} 25.0',
        "# TYPE llamacpp_requests_processing gauge",
        f'llamacpp_requests_processing{{model="a",server="{server}"}} 0.0',
    ):
        assert line in page.splitlines()
    assert "llamacpp:" not in page


@pytest.mark.parametrize("encode", [generate_latest, generate_openmetrics])
def test_a_maximum_that_the_engine_calls_a_counter_keeps_its_name_and_is_a_gauge(encode):
    play = Play()
    series = EngineSeries(lambda: play.state.servers)
    series.publish([an_answer(play.up(a_model("a")))])
    assert "# TYPE llamacpp_n_tokens_max gauge\nllamacpp_n_tokens_max{" in shown(series, encode)


def test_a_family_of_several_servers_is_declared_once():
    pages = [engine_metrics(PAGE, model, server) for model, server in (("a", "1"), ("a", "2"), ("b", "3"))]
    families = {metric.name: metric for metric in merged_families(pages)}
    labels = [sample.labels for sample in families["llamacpp_prompt_tokens"].samples]
    assert labels == [{"model": m, "server": s} for m, s in (("a", "1"), ("a", "2"), ("b", "3"))]
    assert len(families) == 3


def test_the_series_of_a_server_end_with_it():
    play = Play()
    first, second = play.up(a_model("a")), play.up(a_model("b"))
    series = EngineSeries(lambda: play.state.servers)
    series.publish([an_answer(first), an_answer(second, "b")])
    assert 'server="1"' in shown(series)
    play.state = play.state.__class__(servers=play.state.servers[1:])
    assert 'server="1"' not in shown(series) and 'model="b",server="2"' in shown(series)


DRAFTS = """\
# TYPE llamacpp:spec_decode_num_draft_tokens_total counter
llamacpp:spec_decode_num_draft_tokens_total 233
# TYPE llamacpp:spec_decode_num_accepted_tokens_total counter
llamacpp:spec_decode_num_accepted_tokens_total 151
"""


def test_how_much_of_the_drafts_was_accepted_is_logged_at_the_end_of_a_server(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    play = Play()
    drafting, other = play.up(a_model("a")), play.up(a_model("b"))
    series = EngineSeries(lambda: play.state.servers)
    series.publish([an_answer(drafting, page=DRAFTS), an_answer(other, "b", page=PROMPTS.format(computed=0, cached=0))])
    assert caplog.messages == []
    play.post(*(ev.Exited(server, "", 5.0) for server in (drafting, other)))
    series.publish([])
    series.publish([])
    assert caplog.messages == [f"drafted server={drafting} model=a tokens=233 accepted=151 acceptance=0.65"]


def test_a_server_that_does_not_answer_keeps_its_last_values_for_a_minute(monkeypatch: pytest.MonkeyPatch):
    play, now = Play(), 1000.0
    monkeypatch.setattr("workers.engine_metrics.series.time.monotonic", lambda: now)
    series = EngineSeries(lambda: play.state.servers)
    series.publish([an_answer(play.up(a_model("a")))])
    now += 45.0
    series.publish([])
    assert "llamacpp_prompt_tokens_total{" in shown(series)
    now += 30.0
    series.publish([])
    assert "llamacpp_prompt_tokens_total{" not in shown(series)


@pytest.mark.parametrize(
    "page",
    [
        "not a page {",
        "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 5\n",
        "# TYPE llama_smart_proxy_requests_total counter\nllama_smart_proxy_requests_total 5\n",
        '# TYPE llamacpp:x gauge\nllamacpp:x{a="',
        "\x00\xff",
    ],
)
def test_a_page_of_something_else_adds_nothing(page: str):
    play = Play()
    series = EngineSeries(lambda: play.state.servers)
    series.publish([an_answer(play.up(a_model("a")), page=page)])
    added = [line for line in shown(series).splitlines() if not line.startswith("#") and "engine_last_read" not in line]
    assert added == []


def test_a_server_adds_no_more_than_so_many_series_and_none_twice():
    lines = "".join(f'llamacpp:x{{n="{n // 2}"}} 1\n' for n in range(20 * MAX_SAMPLES))
    assert engine_metrics(f"# TYPE llamacpp:x gauge\n{lines}", "a", "1") == []
    twice = engine_metrics(PAGE + "llamacpp:requests_processing 3\n", "a", "1")
    series = [(s.name, *s.labels.items()) for metric in twice for s in metric.samples]
    assert len(series) == len(set(series))


def test_a_label_of_the_engine_cannot_name_another_model():
    [metric] = engine_metrics('llamacpp:x{model="b",kind="k"} 1\n', "a", "1")
    assert metric.samples[0].labels == {"model": "a", "server": "1", "kind": "k"}


def test_a_limited_key_sees_the_engines_of_its_models_alone():
    play = Play()
    mine, other = play.up(a_model("mine")), play.up(a_model("secret"))
    store = StateStore(play.state)
    gauges, series = Gauges(store, "1"), EngineSeries(lambda: store.pool.servers)
    gauges.add(series)
    series.publish([an_answer(mine, "mine"), an_answer(other, "secret")])
    limited = gauges.render("", {"mine"})[0].decode()
    assert 'llamacpp_prompt_tokens_total{model="mine",server="1"} 25.0' in limited
    assert "secret" not in limited


@pytest.mark.parametrize(
    "line",
    ['{"llamacpp:a b"} 2', '{"llamacpp:a\\nup 1"} 2', '{"llamacpp:a","of the engine"="1"} 2', "llamacpp:x 2"],
)
def test_a_name_that_would_spoil_the_page_is_left_out(line: str):
    """Prometheus 3 allows any name in quotes; one such line in the text format costs the whole scrape."""
    found = engine_metrics(f"llamacpp:x 1\n{line}\n", "m", "1")
    assert [(sample.name, sample.value) for metric in found for sample in metric.samples] == [("llamacpp_x", 1.0)]


def test_series_that_are_renamed_to_one_are_one():
    for page in ('llamacpp:a{server="1"} 1\nllamacpp:a{server="2"} 2\n', "llamacpp:a:b 1\nllamacpp:a_b 2\n"):
        found = engine_metrics(page, "m", "1")
        assert len([sample for metric in found for sample in metric.samples]) == 1


@pytest.mark.parametrize("page", ['{"llamacpp:b"="z"="q"} 2 123\n', "llamacpp:x 1\n" * 100_000])
def test_an_invalid_or_huge_page_is_no_page(page: str):
    with pytest.raises(ValueError):
        engine_metrics(page, "m", "1")


PROMPTS = """\
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total {computed}
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total {cached}
"""


def test_how_much_of_the_first_prompts_and_of_all_was_cached_is_logged(caplog: pytest.LogCaptureFixture):
    """Only then is it known what a restored cache was worth: models with windows or a state reuse less of it."""
    caplog.set_level("INFO")
    play = Play()
    server = play.up(a_model("a"))
    series = EngineSeries(lambda: play.state.servers)
    for computed, cached in ((0, 0), (204, 3404), (1000, 5000)):
        series.publish([an_answer(server, page=PROMPTS.format(computed=computed, cached=cached))])
    play.post(ev.Exited(server, "", 5.0))
    series.publish([])
    assert caplog.messages == [
        f"first prompts server={server} model=a computed=204 cached=3404",
        f"prompts server={server} model=a computed=1000 cached=5000",
    ]
