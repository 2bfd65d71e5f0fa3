"""Which source package is taken of those that an index offers."""

from __future__ import annotations

import pytest

from app.use_cases.engines.source_packages import (
    PINNED_SHA256,
    PINNED_VERSION,
    NoSourcePackage,
    SourcePackage,
    chosen_package,
    is_source_package,
)

VERSIONS = ("0.2.9", "2026.4.8672", "2026.4.8672.1", "2026.9.11400", "2026.10.11549", "2026.10.11559", "2026.11.11900")


def offered(*versions: str, sha256: str = "a1", is_yanked: bool = False) -> list[SourcePackage]:
    return [SourcePackage(f"xllamacpp-{each}.tar.gz", "", sha256, is_yanked=is_yanked) for each in versions]


@pytest.mark.parametrize("wanted", ["2026.10.11559", "11559", "b11559"])
def test_a_version_is_named_as_xllamacpp_or_as_llama_cpp_names_it(wanted: str):
    assert chosen_package(offered(*VERSIONS), wanted).version == "2026.10.11559"


def test_of_two_packages_of_one_build_the_newer_is_taken():
    assert chosen_package(offered(*VERSIONS), "b8672").version == "2026.4.8672.1"
    assert chosen_package(offered(*VERSIONS), "2026.4.8672").version == "2026.4.8672"


@pytest.mark.parametrize("wanted", ["1", "9", "1549", "b9", "10.11549", "2026", ""])
def test_a_part_of_a_version_is_not_that_version(wanted: str):
    with pytest.raises(NoSourcePackage):
        chosen_package(offered(*VERSIONS), wanted)


@pytest.mark.parametrize("wanted", ["11560", "b11560", "2026.10.11560"])
def test_for_a_version_that_there_is_not_the_nearest_are_named(wanted: str):
    with pytest.raises(NoSourcePackage, match=r"the nearest are 2026\.10\.11559, 2026\.10\.11549, 2026\.9\.11400$"):
        chosen_package(offered(*VERSIONS), wanted)


def test_for_a_word_the_newest_are_named_and_no_withdrawn_one():
    withdrawn = offered("2027.1.12000", is_yanked=True)
    with pytest.raises(NoSourcePackage, match=r"of xllamacpp latest; the nearest are 2026\.11\.11900, "):
        chosen_package(offered(*VERSIONS) + withdrawn, "latest")


def test_the_pinned_version_has_its_own_checksum_whatever_the_index_says():
    assert chosen_package(offered(PINNED_VERSION, sha256="0" * 64)).sha256 == PINNED_SHA256


def test_another_version_without_a_checksum_is_refused():
    with pytest.raises(NoSourcePackage, match="use --sdist FILE"):
        chosen_package(offered("2026.11.11900", sha256=""), "11900")


def test_a_withdrawn_package_is_taken_only_where_there_is_no_other():
    both = offered("2026.10.11559", is_yanked=True) + offered("2026.11.11559", sha256="b2")
    assert chosen_package(both, "11559").sha256 == "b2"
    assert chosen_package(both[:1], "11559").is_yanked


@pytest.mark.parametrize(
    "name",
    ["xllamacpp-../../x.tar.gz", "xllamacpp-1/2.tar.gz", "xllamacpp-.tar.gz", "xllamacpp-1.zip", "other-1.0.tar.gz"],
)
def test_what_is_no_source_package_s_name_is_never_a_file_name(name: str):
    assert not is_source_package(name)
