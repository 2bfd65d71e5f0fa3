"""Client snippets: the first request from the usual clients, ready to paste."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

NO_KEY = "none"  # clients insist on a key; a service without keys ignores it
KEY_PLACEHOLDER = "YOUR_KEY"
MODEL_PLACEHOLDER = "MODEL_NAME"
# Claude Code's, of the model in general and of each size that it asks for by itself.
CLAUDE_MODEL_VARIABLES = (
    *("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL"),
    *("ANTHROPIC_DEFAULT_HAIKU_MODEL", "CLAUDE_CODE_SUBAGENT_MODEL"),
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """`id` is an HTML id; `note` says what the text needs or means."""

    id: str
    title: str
    text: str
    note: str = ""


def client_snippets(url: str, model: str, needs_key: bool) -> tuple[Snippet, ...]:
    """Snippets for the service at `url` (without /v1) and a model that can chat, or "" if there is none. They have a
    placeholder for the key. Names are quoted: a file's name may be anything."""
    model, key = model or MODEL_PLACEHOLDER, KEY_PLACEHOLDER if needs_key else NO_KEY
    return (
        Snippet("curl", "curl", _curl(url, model, key if needs_key else "")),
        Snippet("python", "Python", _python(url, model, key), "pip install openai"),
        Snippet(
            "claude", "Claude Code", _claude(url, model, key, needs_key), "Needs a context of 46,000 tokens or more."
        ),
        Snippet("open-webui", "Open WebUI", _open_webui(url, key), "From a container, 127.0.0.1 is not this machine."),
    )


def _curl(url: str, model: str, key: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]}, ensure_ascii=False)
    headers = [f'-H "Authorization: Bearer {key}"'] if key else []
    headers.append('-H "Content-Type: application/json"')
    return " \\\n  ".join([f"curl {shlex.quote(f'{url}/v1/chat/completions')}", *headers, f"-d {shlex.quote(body)}"])


def _python(url: str, model: str, key: str) -> str:
    return "\n".join(
        [
            "from openai import OpenAI",
            "",
            f'client = OpenAI(base_url={_python_text(f"{url}/v1")}, api_key="{key}")',
            "answer = client.chat.completions.create(",
            f"    model={_python_text(model)},",
            '    messages=[{"role": "user", "content": "Hello!"}],',
            ")",
            "print(answer.choices[0].message.content)",
        ]
    )


def _python_text(text: str) -> str:
    """A literal; JSON's escapes mean the same in Python, except for surrogate pairs, which are written as they are."""
    return json.dumps(text, ensure_ascii=False)


def _claude(url: str, model: str, key: str, needs_key: bool) -> str:
    launch = [f"export LLAMA_SMART_PROXY_URL={shlex.quote(url)}"]
    if needs_key:
        launch.append(f"export LLAMA_SMART_PROXY_API_KEY={key}")
    launch += [f"llama-smart-proxy launch claude --model {shlex.quote(model)}", ""]
    variables = ["# or, where llama-smart-proxy is not installed:", f"export ANTHROPIC_BASE_URL={shlex.quote(url)}"]
    variables += [f"export ANTHROPIC_AUTH_TOKEN={key} ANTHROPIC_API_KEY="]
    variables += [f"export {name}={shlex.quote(model)}" for name in CLAUDE_MODEL_VARIABLES]
    return "\n".join([*launch, *variables, "export CLAUDE_CODE_ATTRIBUTION_HEADER=0", "claude"])


def _open_webui(url: str, key: str) -> str:
    settings = (f"OPENAI_API_BASE_URL={shlex.quote(f'{url}/v1')}", f"OPENAI_API_KEY={key}", "ENABLE_OLLAMA_API=false")
    plain = " ".join(settings)
    container = " \\\n  ".join(f"-e {setting}" for setting in settings)
    return (
        f"{plain} open-webui serve\n\n# or in a container:\n"
        f"docker run -p 3000:8080 \\\n  {container} \\\n  ghcr.io/open-webui/open-webui:main"
    )
