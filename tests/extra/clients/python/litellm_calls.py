"""litellm: as OpenAI's, as Anthropic's, as Ollama's API."""

import os

import litellm

URL, KEY = os.environ["BASE_URL"], os.environ["KEY"]
HELLO = [{"role": "user", "content": "Hello!"}]
for model, base in {
    "openai/demo": URL + "/v1",
    "anthropic/demo": URL,
    "ollama_chat/demo": URL,
    "ollama/demo": URL,
}.items():
    options = {"model": model, "api_base": base, "api_key": KEY, "messages": HELLO, "max_tokens": 4, "num_retries": 0}
    answer = litellm.completion(**options)
    assert answer.usage.completion_tokens == 4, (model, answer)
    chunks = list(litellm.completion(stream=True, **options))
    assert chunks[-1].choices[0].finish_reason, (model, chunks[-1])
assert litellm.embedding("openai/embedder", ["one"], api_base=URL + "/v1", api_key=KEY).data[0]["embedding"]
try:
    litellm.completion("openai/nosuch", HELLO, api_base=URL + "/v1", api_key=KEY)
except litellm.NotFoundError as error:
    assert "nosuch" in str(error)
else:
    raise AssertionError("an unknown model was answered")
