"""Media: what a body names by URL is fetched by the engine, so only what the settings allow may reach it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from app.entities.media_urls import DATA_ONLY, MediaUrls
from app.errors import InvalidRequest
from app.request_body.content import BodyFormat, read_content
from app.routes.incoming_request import IncomingRequest
from app.services import RequestSettings

ANY = MediaUrls(any_host=True)
LISTED = MediaUrls(hosts=frozenset({"images.example", "127.0.0.1:8090", "[fd00::7]"}))
PIXEL = "data:image/png;base64,iVBORw0KGgo="
URL = "http://127.0.0.1:22/x.png"


def image(url: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def chat(*parts: object) -> dict[str, object]:
    text = {"type": "text", "text": "see http://example.com/a.png"}
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": [text, *parts]}]}


def claude(part: dict[str, object]) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": [part]}]}


def rejected(body: dict[str, object], allowed: MediaUrls = DATA_ONLY, text: str = "") -> str:
    """Where the body is rejected; "" if it is not."""
    try:
        read_content((text or json.dumps({"model": "m", **body})).encode(), BodyFormat(media_urls=allowed))
    except InvalidRequest as error:
        assert error.param and "upstream.media_urls" in str(error)
        return error.param
    return ""


PLACES = [
    ("chat", chat(image(URL)), "messages[1].content[1].image_url.url"),
    ("chat, a second one", chat(image(PIXEL), image(URL)), "messages[1].content[2].image_url.url"),
    ("file", chat(image("file:///etc/passwd")), "messages[1].content[1].image_url.url"),
    ("audio", chat({"type": "input_audio", "input_audio": {"data": URL}}), "messages[1].content[1].input_audio.data"),
    ("audio by URL", chat({"type": "input_audio", "input_audio": {"url": URL}}),
     "messages[1].content[1].input_audio.url"),
    ("video", chat({"type": "input_video", "input_video": {"url": URL}}), "messages[1].content[1].input_video.url"),
    ("video, OpenAI's", chat({"type": "video_url", "video_url": {"url": URL}}),
     "messages[1].content[1].video_url.url"),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]},
     "input[0].content[0].image_url"),
    ("responses, a tool's", {"input": [{"type": "function_call_output", "call_id": "1",
                                        "output": [{"type": "input_image", "image_url": URL}]}]},
     "input[0].output[0].image_url"),
    ("messages", claude({"type": "image", "source": {"type": "url", "url": URL}}),
     "messages[0].content[0].source.url"),
    ("messages, a tool's", claude({"type": "tool_result", "tool_use_id": "1", "content": [
        {"type": "image", "source": {"type": "url", "url": URL}}]}), "messages[0].content[0].content[0].source.url"),
    ("embeddings", {"content": {"content": [image(URL)]}}, "content.content[0].image_url.url"),
    ("embeddings, several", {"input": [{"content": [image(PIXEL)]}, {"content": [image(URL)]}]},
     "input[1].content[0].image_url.url"),
    ("rerank", {"query": "q", "documents": [{"content": [image(URL)]}]}, "documents[0].content[0].image_url.url"),
    ("system one", {"state": [{"content": [{"type": "image_url", "image_url": URL}]}]},
     "state[0].content[0].image_url"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "place"), PLACES, ids=[name for name, _, _ in PLACES])
def test_a_url_that_the_engine_would_fetch_is_rejected_wherever_it_is(name: str, body: dict[str, object], place: str):
    assert rejected(body) == place
    assert rejected(body, ANY) == ("" if name != "file" else place)


def test_media_in_the_request_itself_pass():
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert rejected(chat(image(PIXEL), image("iVBORw0KGgo="), sound, {"type": "image", "source": source})) == ""


def test_urls_that_nobody_fetches_pass():
    call = {"type": "tool_use", "id": "1", "name": "fetch", "input": {"url": URL}}
    tool = {"name": "fetch", "parameters": {"properties": {"url": {"type": "string", "default": URL}}}}
    assert rejected({**claude(call), "tools": [tool], "prompt": URL, "image_url": URL}) == ""


def escaped(url: str) -> str:
    return chat_text('"type": "image_url", "image_url": {"url": "' + url + '"}')


def chat_text(part: str) -> str:
    return '{"model": "m", "messages": [{"content": [{' + part + "}]}]}"


@pytest.mark.parametrize(
    "text",
    [
        *map(escaped, ["http://a/", r"\u0068ttp://a/", r"h\u0074tp:\/\/a", r"\u0066\u0069\u006c\u0065://a"]),
        chat_text(r'"t\u0079pe": "\u0069mage_url", "image_url": {"url": "http:"}'),
        chat_text('"type": "text", "type": "image_url", "image_url": {"url": "http:", "url": "data:"}, "type": "text"'),
        chat_text('"type": "image_url", "image_url": 1, "image_url": {"url": "http:"}'),
    ],
)
def test_no_spelling_evades(text: str):
    """Escapes, and members given twice, of which parsers take the first or the last."""
    assert rejected({}, DATA_ONLY, text)


@pytest.mark.parametrize(
    "url",
    ["http://images.example/a.png", "https://images.example", "https://IMAGES.example:443/a?b=c",
     "http://127.0.0.1:8090/a", "http://[fd00::7]/a"],
)  # fmt: skip
def test_a_listed_host_passes(url: str):
    assert rejected(chat(image(url)), LISTED) == ""


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.evil/", "http://evil/images.example", "http://images.example:8080/", "http:a",
        "http://127.0.0.1/", "http://127.0.0.1:80908090/", "http://images.example@evil/", "http://user@images.example/",
        # llama-server takes what follows the first @ for the host: evil here
        "http://images.example/@evil/", "http://images.example?@evil/", "http://images.example\\@evil/",
        "http://images.example#@evil/", "httpx://images.example/", "http://[fd00::7]evil/", "http://images.example./",
    ],
)  # fmt: skip
def test_another_host_is_rejected_however_it_is_written(url: str):
    assert rejected(chat(image(url)), LISTED)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "169.254.169.254:80", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518",
     "[fe80::1]", "[fe80::1%25eth0]", "[::ffff:169.254.169.254]", "images.example@169.254.169.254"],
)  # fmt: skip
def test_link_local_addresses_are_rejected_even_where_any_host_is_allowed(host: str):
    assert rejected(chat(image(f"http://{host}/latest/meta-data")), ANY)


def test_where_any_host_is_allowed_this_machine_is():
    assert [rejected(chat(image(f"https://{host}/")), ANY) for host in ("127.0.0.1:1", "[::1]", "2130706433", "a")] == [
        ""
    ] * 4


def test_a_type_that_only_the_engine_takes_for_a_form_reaches_it_as_json():
    """llama-server reads any type that begins with multipart/form-data as a form, whose fields nobody checked here."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/completions",
        "CONTENT_TYPE": "multipart/form-data-x; boundary=b",
    }
    services: Any = SimpleNamespace(settings=RequestSettings())
    sent = IncomingRequest(environ, services, "").for_engine(b"{}")
    assert sent.headers["Content-Type"] == "application/json"


def test_the_error_names_the_port_that_is_not_listed():
    body = json.dumps({"model": "m", **chat(image("http://a.example:81/x.png"))}).encode()
    with pytest.raises(InvalidRequest, match=r"'a\.example:81' is not in upstream\.media_urls; send .* a data: URL"):
        read_content(body, BodyFormat(media_urls=MediaUrls(hosts=frozenset(["a.example"]))))
