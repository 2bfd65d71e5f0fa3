"""Downloads a source package: continued where it was cut off, and used only if its checksum is right."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import requests

from app.use_cases.engines.source_packages import PINNED_FILENAME, NoSourcePackage, SourcePackage, chosen_package
from workers.engine_builds.logged_command import OnProgress
from workers.engine_builds.package_index import TIMEOUT_SECONDS, IndexAccess, index_access, offered_packages
from workers.engine_builds.stopping import CannotContinue

LIMIT_BYTES = 1 << 30  # xllamacpp's package has 38 MB
_PIECE_BYTES = 1 << 18


def download_source(version: str, folder: Path, on_progress: OnProgress = lambda done, total: None) -> Path:
    """The archive of this version, downloaded unless it is there. `on_progress`: bytes. Raises CannotContinue."""
    if kept := _kept(version, folder):
        return kept
    access = index_access()
    try:
        package = chosen_package(offered_packages(access), version)
    except NoSourcePackage as error:
        raise CannotContinue(str(error)) from error
    archive = folder / package.filename
    if archive.is_file() and sha256_of(archive) == package.sha256:
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part")
    _download(access, package, part, on_progress)
    if sha256_of(part) != package.sha256:
        part.unlink()
        raise CannotContinue(
            f"the download of {package.filename} is damaged (another SHA-256 than {package.sha256[:12]}...) and was "
            "deleted: run the same command again"
        )
    return part.rename(archive)


def _kept(version: str, folder: Path) -> Path | None:
    """The pinned version's archive, if it is there: its checksum is known, so a build continues without a network."""
    archive = folder / PINNED_FILENAME
    with contextlib.suppress(NoSourcePackage):
        package = chosen_package([SourcePackage(PINNED_FILENAME, "", "")], version)
        return archive if archive.is_file() and sha256_of(archive) == package.sha256 else None
    return None


def sha256_of(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _download(access: IndexAccess, package: SourcePackage, part: Path, on_progress: OnProgress) -> None:
    """Append what `part` lacks."""
    there = part.stat().st_size if part.exists() else 0
    # The archive as it is: a server that compresses it once more would send other bytes than those of the checksum.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    try:
        with access.session.get(package.url, headers=headers, timeout=TIMEOUT_SECONDS, stream=True) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # all is there: the checksum decides
            answer.raise_for_status()
            continues = answer.status_code == requests.codes.partial_content
            _write(answer, part, there if continues else 0, package.size_bytes, on_progress)
    except requests.RequestException as error:
        raise CannotContinue(
            f"the download of {package.filename} broke off ({type(error).__name__}): run the same command again, which "
            "resumes it"
        ) from error


def _write(answer: requests.Response, part: Path, there: int, size_bytes: int, on_progress: OnProgress) -> None:
    total = size_bytes or there + int(answer.headers.get("Content-Length", 0))
    with open(part, "ab") as file:
        file.truncate(there)
        for piece in answer.iter_content(_PIECE_BYTES):
            there += file.write(piece)
            on_progress(there, max(there, total))
            if there > LIMIT_BYTES:
                raise CannotContinue(f"{part.name} is larger than {LIMIT_BYTES >> 30} GiB: not a source package")
