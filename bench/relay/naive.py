"""The obvious proxy in Flask and requests, under gunicorn's threads. A peer in bench.relay.

The environment variable UPSTREAM is the base URL of its upstream.
"""

from __future__ import annotations

import os

import requests
from flask import Flask, Response, request

UPSTREAM = os.environ.get("UPSTREAM", "")

app = Flask(__name__)


@app.post("/v1/chat/completions")
def chat_completions() -> Response:
    answer = requests.post(
        f"{UPSTREAM}/v1/chat/completions",
        data=request.get_data(),
        headers={"Content-Type": "application/json"},
        stream=True,
        timeout=600,
    )
    kind = answer.headers.get("Content-Type")
    return Response(answer.iter_content(chunk_size=None), status=answer.status_code, content_type=kind)
