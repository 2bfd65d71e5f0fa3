"""RequestCounts: counters and histograms of inference requests."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry

from workers.telemetry.families import CounterFamily, HistogramFamily

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class RequestCounts:
    """Any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, histogram = partial(CounterFamily, registry), partial(HistogramFamily, registry, buckets=SECONDS)
        help_text = "Inference requests by status code (499: client disconnected)."
        self._requests = counter("requests", help_text, "endpoint", "model", "code")
        help_text = "Time from the arrival of a request to the last byte of its response."
        self._duration = histogram("request_duration_seconds", help_text, "endpoint", "model")
        help_text = "Time from the arrival of a request to the response headers of llama-server."
        self._first_byte = histogram("time_to_first_byte_seconds", help_text, "model")
        help_text = "Time from the arrival of a request until it has a slot, including model loads."
        self._wait = histogram("queue_wait_seconds", help_text, "model")
        help_text = "Tokens of complete responses, as counted by llama-server."
        self._tokens = counter("tokens", help_text, "model", "kind")
        help_text = "Tokens of complete responses to requests with an API key, by the name of the key."
        self._key_tokens = counter("key_tokens", help_text, "key", "model", "kind")

    def answered(
        self, endpoint: str, model: str, code: int, seconds: float, prompt_tokens: int, completion_tokens: int, key: str
    ) -> None:
        """An inference request has ended. `key`: the name of its key, "" without one."""
        self._requests.inc(endpoint, model, str(code))
        self._duration.observe(seconds, endpoint, model)
        for kind, tokens in (("prompt", prompt_tokens), ("completion", completion_tokens)):
            if tokens:
                self._tokens.inc(model, kind, by=tokens)
                if key:
                    self._key_tokens.inc(key, model, kind, by=tokens)

    def first_byte(self, model: str, seconds: float, waited_seconds: float) -> None:
        """The engine's answer has begun, so long after the request arrived, of which it waited for a slot."""
        self._first_byte.observe(seconds, model)
        self._wait.observe(waited_seconds, model)
