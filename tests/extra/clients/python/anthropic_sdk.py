"""anthropic-python: messages, streams, token counts, the list, errors."""

import os

import anthropic

HELLO = [{"role": "user", "content": "Hello!"}]
client = anthropic.Anthropic(base_url=os.environ["BASE_URL"], api_key=os.environ["KEY"], timeout=60)

answer = client.messages.create(model="demo", messages=HELLO, max_tokens=4)
assert (answer.model, answer.usage.output_tokens, answer.stop_reason) == ("demo", 4, "max_tokens"), answer

with client.messages.stream(model="demo", messages=HELLO, max_tokens=4) as stream:
    final = stream.get_final_message()
assert final.usage.output_tokens == 4, final

assert client.messages.count_tokens(model="demo", messages=HELLO).input_tokens > 0

models = list(client.models.list())
assert [model.display_name for model in models if model.id == "demo"] == ["demo"], models

try:
    client.messages.create(model="nosuch", messages=HELLO, max_tokens=4)
except anthropic.NotFoundError as error:
    assert (error.body["type"], error.body["error"]["type"]) == ("error", "not_found_error"), error.body
else:
    raise AssertionError("an unknown model was answered")
