"""What is valid in the settings and may not do what was meant."""

from __future__ import annotations

import os
from collections.abc import Iterator

from app.settings.schema import Settings
from app.settings.schema_keys import Place
from app.use_cases.launch.known_options import unknown_options

_UNKNOWN = (
    "{options}: not known to this release; passed on to llama-server, which refuses what it does not have. Memory "
    "estimates have low confidence until a load has been seen"
)


def settings_warnings(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Each with its place."""
    yield from _unused_allow(settings)
    yield from _keys_of_peers(settings)
    arguments: dict[Place, list[str]] = {("engine", "args"): settings.engine.args}
    arguments |= {("models", name, "args"): model.args for name, model in settings.models.items()}
    for place, args in arguments.items():
        if unknown := unknown_options(args):
            yield place, _UNKNOWN.format(options=", ".join(unknown))


def _keys_of_peers(settings: Settings) -> Iterator[tuple[Place, str]]:
    for name, peer in settings.peers.items():
        if peer.api_key_env and not os.environ.get(peer.api_key_env):
            yield ("peers", name, "api_key_env"), f"{peer.api_key_env} is not set here; the service needs it"
        if peer.api_key_file and not os.access(peer.api_key_file, os.R_OK):
            yield ("peers", name, "api_key_file"), f"{peer.api_key_file} cannot be read here; the service reads it"
        if (peer.api_key_env or peer.api_key_file) and not peer.hides_key:
            yield ("peers", name, "url"), "http: whoever is on the network can read the key; use https where possible"


def _unused_allow(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Globs of downloads that nothing reads."""
    about = settings.catalog.hugging_face
    if about.allow and about.download != "allow":
        place = "catalog", "hugging_face", "allow"
        yield place, f"counts only with `download: allow`; download is {about.download}"
