"""Which source package of those that an index offers is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.use_cases.engines.source_packages import (
    PINNED_SHA256,
    PINNED_VERSION,
    NoSourcePackage,
    SourcePackage,
    chosen_package,
    is_source_package,
)


def package(version: str, sha256: str = "ab") -> SourcePackage:
    return SourcePackage(f"xllamacpp-{version}.tar.gz", f"https://index/{version}", sha256)


OFFERED = [package("0.1.3"), package("2026.8.11200"), package(PINNED_VERSION), package("2026.11.11600")]


@pytest.mark.parametrize("wanted", ["2026.8.11200", "11200", "b11200"])
def test_a_version_is_xllamacpps_or_the_build_number(wanted):
    assert chosen_package(OFFERED, wanted) == OFFERED[1]


def test_the_pinned_package_has_the_checksum_that_is_known_here_whatever_the_index_says():
    assert chosen_package(OFFERED).sha256 == PINNED_SHA256
    assert chosen_package([package(PINNED_VERSION, "")]).sha256 == PINNED_SHA256


def test_a_package_without_any_checksum_is_not_taken():
    with pytest.raises(NoSourcePackage, match=r"no SHA-256 of xllamacpp-2026\.8\.11200\.tar\.gz.*--sdist FILE"):
        chosen_package([package("2026.8.11200", "")], "11200")


def test_an_unknown_version_is_answered_with_the_newest():
    with pytest.raises(NoSourcePackage, match=r"xllamacpp 9999; its newest are 2026\.11\.11600, 2026\.10\.11549, "):
        chosen_package(OFFERED, "9999")


def test_a_withdrawn_package_is_taken_only_if_there_is_no_other():
    withdrawn = replace(package("2026.8.11200"), is_yanked=True)
    assert chosen_package([withdrawn, package("2025.8.11200")], "11200").version == "2025.8.11200"
    assert chosen_package([withdrawn], "11200") == withdrawn


@pytest.mark.parametrize(
    "name", ["xllamacpp-../../x.tar.gz", "xllamacpp-.tar.gz", "other-1.tar.gz", "xllamacpp-1-cp311.whl", "x/../y"]
)
def test_what_is_no_source_package_by_its_name_is_left_out(name):
    assert not is_source_package(name)
    assert is_source_package("xllamacpp-2026.10.11549.tar.gz")
