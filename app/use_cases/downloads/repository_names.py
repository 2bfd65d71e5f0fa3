"""Names of models in Hugging Face repositories, as people and clients write them.

A name is only compared with what the repository lists, never used as a path: what could be one, or a flag, is rejected.
"""

from __future__ import annotations

import re

from app.entities.model import LATEST
from app.entities.repository import RepositoryName

MAX_NAME_LENGTH = 512
HOSTS = ("huggingface.co/", "www.huggingface.co/", "hf.co/")
# huggingface_hub's rules (2.4.0, utils/_validators.py), in ASCII: "--" separates user and repo in the cache's folders.
_OWNER = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_PAGES = ("blob", "resolve", "tree", "raw")  # .../blob/main/file.gguf, as the browser shows it
_EXAMPLE = "write user/repo, user/repo:Q4_K_M or user/repo:file.gguf"


class InvalidName(ValueError):
    """A text does not name a model of a repository; the message says why, in one line."""


def parse_name(text: str) -> RepositoryName:
    """The name in any of its spellings: user/repo, user/repo:QUANT, user/repo:file.gguf, user/repo/folder/file.gguf,
    hf.co/user/repo, and addresses of its pages. Raises InvalidName."""
    if len(text) > MAX_NAME_LENGTH or not text.isprintable():
        raise InvalidName(f"not a name of a model: {_EXAMPLE}")
    path, colon, choice = _without_host(text.strip().removesuffix(LATEST)).partition(":")
    if colon and not choice:
        raise InvalidName(f"{text!r} ends before its quantization: {_EXAMPLE}")
    owner, repo, *folders = path.split("/") if path.count("/") else (path, "")
    if not (_OWNER.fullmatch(owner) and _OWNER.fullmatch(repo)) or repo.endswith(".git"):
        raise InvalidName(f"{text!r} is not a name of a Hugging Face repository: {_EXAMPLE}")
    file = "/".join(_file_of_page(folders))
    if file and not file.lower().endswith(".gguf"):
        raise InvalidName(f"{text!r} names no file of a repository: {_EXAMPLE}")
    if file and choice:
        raise InvalidName(f"{text!r} names a file and a quantization: {_EXAMPLE}")
    return RepositoryName(f"{owner}/{repo}", _checked_choice(file or choice, text))


def usual_spelling(text: str) -> str:
    """user/repo, user/repo:QUANT or user/repo:file.gguf, of any spelling of that; "" if it is none."""
    try:
        return str(parse_name(text))
    except InvalidName:
        return ""


def why_not_deleted(wanted: str, model: str) -> str:
    """Of a model that was found by a name: why its files are not what the name means; "" if they are.

    The same file in two repositories is one model, and only its first copy is what would be deleted."""
    repos = {usual_spelling(each).partition(":")[0].lower() for each in (wanted, model)}
    if len(repos) < 2 or "" in repos:
        return ""
    return f"{wanted} is the same file as {model}, whose copy is the one in use: delete that by its name first"


def _without_host(text: str) -> str:
    """The path of an address, and of a name that begins with a host. Raises InvalidName for another host."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() not in ("https", "http"):
        raise InvalidName(f"{text!r} is not an address of Hugging Face: {_EXAMPLE}")
    rest = rest.partition("?")[0].partition("#")[0] if separator else text
    host = next((host for host in HOSTS if rest.lower().startswith(host)), "")
    if separator and not host:
        raise InvalidName(f"{text!r} is not an address of Hugging Face, the only place to download from: {_EXAMPLE}")
    return rest[len(host) :].rstrip("/")


def _file_of_page(folders: list[str]) -> list[str]:
    """What remains of a page's path behind user and repo. Raises InvalidName for another revision."""
    if not folders or folders[0] not in _PAGES or len(folders) < 2:
        return folders
    if folders[1] != "main":
        raise InvalidName(f"the revision {folders[1]!r} cannot be chosen: the current one (main) is downloaded")
    return folders[2:]


def _checked_choice(choice: str, text: str) -> str:
    """Raises InvalidName for what could be a path elsewhere or a flag."""
    parts = choice.split("/")
    is_odd = any(part in ("", ".", "..") or part.startswith("-") for part in parts) if choice else False
    if is_odd or "\\" in choice or ":" in choice:
        raise InvalidName(f"{text!r} names no file of a repository: {_EXAMPLE}")
    return choice
