"""Keys of peers: read from the environment or a file at each use, so that a replaced file counts at once."""

from __future__ import annotations

import os
import re

from app.entities.peer import Peer

MAX_BYTES = 8192
_KEY = re.compile(r"[!-~]+")


class NoKey(Exception):
    """The configured key cannot be had; the message says why, and never contains one."""


def read_key(peer: Peer) -> str:
    """ "" for a peer without one. Raises NoKey."""
    if not (peer.key_variable or peer.key_file):
        return ""
    source = f"api_key_env {peer.key_variable}" if peer.key_variable else f"api_key_file {peer.key_file}"
    key = os.environ.get(peer.key_variable, "") if peer.key_variable else _content(peer.key_file)
    if not (key := key.strip()):
        raise NoKey(f"{source} is {'not set' if peer.key_variable else 'empty'}")
    if not _KEY.fullmatch(key):
        raise NoKey(f"{source} is no key: it has spaces or characters other than ASCII")
    return key


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES).decode("latin-1")
    except OSError as error:
        raise NoKey(f"api_key_file {path} cannot be read: {error.strerror}") from error
