"""A stream whose llama-server is killed raises in every library, so that nobody takes a part for the whole."""

import os
import signal
from collections.abc import Callable, Iterator

import anthropic
import httpx
import ollama
import openai

URL, KEY = os.environ["BASE_URL"], os.environ["KEY"]
BEARER = {"Authorization": f"Bearer {KEY}"}


ATTEMPTS = 10  # the demo model's answers are short: some end before the server is killed
client_of_openai = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
client_of_anthropic = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
client_of_ollama = ollama.Client(URL, headers=BEARER)


def question(number: int) -> dict[str, object]:
    return {"model": "fragile", "messages": [{"role": "user", "content": f"Hello {number}!"}], "max_tokens": 3000}


def openai_stream(number: int) -> Iterator[bool]:
    for chunk in client_of_openai.chat.completions.create(**question(number), stream=True):
        yield bool(chunk.choices and chunk.choices[0].finish_reason)


def anthropic_stream(number: int) -> Iterator[bool]:
    for event in client_of_anthropic.messages.create(**question(100 + number), stream=True):
        yield event.type == "message_delta"


def ollama_stream(number: int) -> Iterator[bool]:
    for part in client_of_ollama.generate("fragile", f"Once {number}", stream=True):
        yield part.done


def server_pid() -> int:
    """Of the server, which is loaded for it."""
    client_of_openai.completions.create(model="fragile", prompt="Hello!", max_tokens=1)
    servers = httpx.get(URL + "/health", headers=BEARER).json()["servers"]
    (pid,) = [server["process"] for server in servers if server["model_id"] == "fragile" and server["state"] == "ready"]
    return pid


def assert_cut_streams_raise(stream: Callable[[int], Iterator[bool]], error: type[Exception]) -> None:
    """`stream` yields whether the end has been seen."""
    for number in range(ATTEMPTS):
        pid, is_whole, count = server_pid(), False, -1
        try:
            for count, is_last in enumerate(stream(number)):
                is_whole |= is_last
                if count == 0:
                    os.kill(pid, signal.SIGKILL)
        except error:
            assert count >= 0, "the stream did not begin"
            return
        assert is_whole, f"{stream.__name__} ended as if whole"
    raise AssertionError(f"{stream.__name__}: no stream was cut in {ATTEMPTS} attempts")


assert_cut_streams_raise(openai_stream, openai.APIError)
assert_cut_streams_raise(anthropic_stream, anthropic.APIError)
assert_cut_streams_raise(ollama_stream, ollama.ResponseError)
