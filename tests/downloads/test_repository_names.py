"""Names of models in repositories, as they are written."""

from __future__ import annotations

import pytest

from app.entities.repository import RepositoryName
from app.use_cases.downloads.repository_names import InvalidName, parse_name, why_not_deleted


@pytest.mark.parametrize(
    ("text", "repo", "choice"),
    [
        ("unsloth/Qwen3-14B-GGUF", "unsloth/Qwen3-14B-GGUF", ""),
        ("unsloth/Qwen3-14B-GGUF:Q4_K_M", "unsloth/Qwen3-14B-GGUF", "Q4_K_M"),
        ("u/r:file.gguf", "u/r", "file.gguf"),
        ("u/r:folder/file.gguf", "u/r", "folder/file.gguf"),
        ("u/r/file.gguf", "u/r", "file.gguf"),
        ("u/r/folder/file.gguf", "u/r", "folder/file.gguf"),
        ("hf.co/u/r:Q8_0", "u/r", "Q8_0"),
        ("HF.co/u/r", "u/r", ""),
        ("huggingface.co/u/r", "u/r", ""),
        ("https://huggingface.co/u/r", "u/r", ""),
        ("https://hf.co/u/r/", "u/r", ""),
        ("https://www.huggingface.co/u/r/tree/main", "u/r", ""),
        ("https://huggingface.co/u/r/blob/main/a/b.gguf", "u/r", "a/b.gguf"),
        ("https://huggingface.co/u/r/resolve/main/b.gguf?download=true", "u/r", "b.gguf"),
        ("u/r:latest", "u/r", ""),
        ("hf.co/u/r:latest", "u/r", ""),
        ("u/r:Q8_0:latest", "u/r", "Q8_0"),
        (" u/r ", "u/r", ""),
        ("u_1/r.2-x_y", "u_1/r.2-x_y", ""),
    ],
)
def test_a_name_may_be_written_in_many_ways(text: str, repo: str, choice: str):
    assert parse_name(text) == RepositoryName(repo, choice)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "qwen3",
        "/etc/passwd",
        "../secrets/file",
        "u/..",
        "./model.gguf",
        "~/models/a.gguf",
        "-u/r",
        "--config/r",
        "u/-r",
        "u/r:../../x",
        "u/r:/etc/passwd",
        "u/r:-x",
        "u/r:a//b.gguf",
        "u/r:a\\b.gguf",
        "u/r:a:b",
        "u/r/a.gguf:Q4_0",
        "u--x/r",
        "u/r..x",
        "u/r.git",
        "u/r\n:Q4_0",
        "u/r:Q4\x00",
        "u/r:" + "x" * 600,
        "https://example.org/u/r",
        "https://example.org/u/r.gguf",
        "https://huggingface.co.example.org/u/r",
        "file:///u/r",
        "https://huggingface.co/u/r/blob/v2/b.gguf",
        "u/ü",
        "u/r/folder",
        "u/r with spaces",
    ],
)
def test_what_could_be_a_path_a_flag_or_another_host_is_no_name(text: str):
    with pytest.raises(InvalidName) as error:
        parse_name(text)
    assert "\n" not in str(error.value)


def test_the_message_says_how_names_are_written():
    with pytest.raises(InvalidName, match=r"'qwen3' is not a name of a Hugging Face repository: write user/repo, "):
        parse_name("qwen3")


@pytest.mark.parametrize(
    ("wanted", "model", "is_deleted"),
    [
        ("hf.co/U/foo", "u/Foo:Q4_0", True),
        ("u/Foo:foo-Q4_0.gguf", "u/Foo:Q4_0", True),
        ("chat", "u/Foo:Q4_0", True),
        ("u/Foo", "chat", True),
        ("u/Bar:Q4_0", "u/Foo:Q4_0", False),
    ],
)
def test_a_name_of_another_repository_deletes_nothing(wanted: str, model: str, is_deleted: bool):
    assert (why_not_deleted(wanted, model) == "") == is_deleted
