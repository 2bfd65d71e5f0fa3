from __future__ import annotations

import ast
import json
import shlex

from app.use_cases.reporting.client_snippets import KEY_PLACEHOLDER, MODEL_PLACEHOLDER, client_snippets

URL = "http://gpu-box:8080"
NASTY = """it's $(id) "x" `y` \\ \u2028 </pre>.gguf"""


def texts(model: str = "qwen3-14b", needs_key: bool = False, url: str = URL) -> dict[str, str]:
    return {snippet.id: snippet.text for snippet in client_snippets(url, model, needs_key)}


def test_snippets_have_the_address_and_a_real_model():
    assert texts()["curl"] == (
        "curl http://gpu-box:8080/v1/chat/completions \\\n"
        '  -H "Content-Type: application/json" \\\n'
        """  -d '{"model": "qwen3-14b", "messages": [{"role": "user", "content": "Hello!"}]}'"""
    )
    assert all(URL in text for text in texts().values())
    assert "llama-smart-proxy launch claude --model qwen3-14b" in texts()["claude"]


def test_where_keys_are_configured_every_snippet_has_a_place_for_one():
    assert all(KEY_PLACEHOLDER in text for text in texts(needs_key=True).values())
    assert not any(KEY_PLACEHOLDER in text for text in texts().values())


def test_without_a_model_that_can_chat_there_is_a_placeholder():
    found = texts(model="")
    assert all(MODEL_PLACEHOLDER in found[each] for each in ("curl", "python", "claude"))


def test_a_name_stays_data_in_a_shell_and_in_python():
    found = texts(NASTY)
    body = shlex.split(found["curl"].replace("\\\n", ""))[-1]
    assert json.loads(body)["model"] == NASTY
    calls = [node for node in ast.walk(ast.parse(found["python"])) if isinstance(node, ast.keyword)]
    assert [ast.literal_eval(call.value) for call in calls if call.arg == "model"] == [NASTY]
    exports = shlex.split(found["claude"], comments=True)
    assert f"ANTHROPIC_MODEL={NASTY}" in exports
    assert exports[exports.index("--model") + 1] == NASTY


def test_an_address_stays_data_in_a_shell_and_in_python():
    url = "http://x;id$(id)'\"[::1]:8080"
    found = texts(url=url)
    assert shlex.split(found["curl"].replace("\\\n", ""))[1] == f"{url}/v1/chat/completions"
    assert f"OPENAI_API_BASE_URL={url}/v1" in shlex.split(found["open-webui"], comments=True)
    ast.parse(found["python"])
