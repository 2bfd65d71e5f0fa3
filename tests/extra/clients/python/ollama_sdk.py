"""ollama-python: the lists, chat, generate, streams, embeddings, errors."""

import os

import ollama

HELLO = [{"role": "user", "content": "Hello!"}]
client = ollama.Client(os.environ["BASE_URL"], headers={"Authorization": f"Bearer {os.environ['KEY']}"}, timeout=60)
short = {"num_predict": 4}

assert "demo:latest" in [model.model for model in client.list().models], client.list()
assert "completion" in client.show("demo").capabilities
answer = client.chat("demo", HELLO, options=short)
assert (answer.eval_count, answer.done) == (4, True), answer
parts = list(client.chat("demo", HELLO, options=short, stream=True))
assert parts[-1].done and parts[-1].eval_count == 4, parts[-1]
assert client.generate("demo", "Once", options=short).eval_count == 4
assert "demo:latest" in [model.model for model in client.ps().models], client.ps()
assert len(client.embed("embedder", ["one", "two"]).embeddings) == 2
try:
    client.chat("nosuch", HELLO)
except ollama.ResponseError as error:
    assert (error.status_code, "nosuch" in error.error) == (404, True), error
else:
    raise AssertionError("an unknown model was answered")
