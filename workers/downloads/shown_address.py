"""Addresses as messages show them: an endpoint may have a user and a password in it."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"[^\s/'\"]*@")


def without_password(text: str) -> str:
    """The text with "https://HOST" for each "https://USER:PASSWORD@HOST"."""
    return _USER_INFO.sub("", text)
