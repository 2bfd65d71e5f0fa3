"""openai-python 2 and 3: the list, chat, streams, tools, responses, embeddings, errors."""

import os

import openai

HELLO = [{"role": "user", "content": "Hello!"}]
client = openai.OpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key=os.environ["KEY"], timeout=60)

assert "demo" in [model.id for model in client.models.list()]
assert client.models.retrieve("demo").id == "demo"

answer = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=4)
assert (answer.model, answer.usage.completion_tokens) == ("demo", 4), answer

chunks = list(
    client.chat.completions.create(
        model="demo", messages=HELLO, max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
)
assert chunks[-1].usage.completion_tokens == 4, chunks[-1]

tool = {"type": "function", "function": {"name": "now", "description": "the time", "parameters": {"type": "object"}}}
assert client.chat.completions.create(model="demo", messages=HELLO, max_tokens=4, tools=[tool]).choices

# `client.responses.stream` would accumulate events by their output_index, which llama-server does not send.
kinds = [
    event.type for event in client.responses.create(model="demo", input="Hello!", max_output_tokens=4, stream=True)
]
assert (kinds[0], kinds[-1]) == ("response.created", "response.completed"), kinds

assert client.completions.create(model="demo", prompt="Once", max_tokens=3).usage.completion_tokens == 3
vectors = client.embeddings.create(model="embedder", input=["one", "two"]).data  # as base64, by default
assert len(vectors) == 2 and len(vectors[0].embedding) > 8

try:
    client.chat.completions.create(model="nosuch", messages=HELLO)
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
else:
    raise AssertionError("an unknown model was answered")
try:
    client.with_options(api_key="wrong").models.list()
except openai.AuthenticationError as error:
    assert error.code == "invalid_api_key", error
else:
    raise AssertionError("a wrong key was accepted")
