"""Answers of the hub and its storage: redirects are followed and refusals told by their heads alone.

huggingface_hub and the client below it read the bodies of both whole and decompressed, however long they are: one
without an end, or a small one that becomes a large one, would take all memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import httpx2
from huggingface_hub import get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError

MAX_REDIRECTS = 10
_TELLING = ("X-Error-Code", "X-Error-Message", "Retry-After")  # of the headers of a refusal


@contextmanager
def received_head(address: str, headers: Mapping[str, str], timeout: httpx2.Timeout) -> Iterator[httpx2.Response]:
    """What is at an address, or where redirects lead; its body is not read. Another origin gets no token (httpx2).

    Raises httpx2.HTTPError."""
    client = get_session()
    request = client.build_request("GET", address, headers=dict(headers), timeout=timeout)
    for _ in range(MAX_REDIRECTS):
        response = client.send(request, stream=True, follow_redirects=False)
        with closing(response):
            if response.next_request is None:
                yield response
                return
        request = response.next_request
    raise httpx2.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=request)


def raise_for_status(response: httpx2.Response) -> None:
    """Raises HfHubHTTPError for everything but a body that was asked for, as hf_raise_for_status does for errors."""
    if response.is_success:
        return
    kept = {name: response.headers[name] for name in _TELLING if name in response.headers}
    head = httpx2.Response(response.status_code, headers=kept, request=response.request)
    hf_raise_for_status(head)
    raise HfHubHTTPError(f"status {response.status_code}", response=head)  # a redirect to nowhere
