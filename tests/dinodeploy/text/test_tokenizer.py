from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.errors import BundleError, MisuseError, UnavailableError
from dinodeploy.text.tokenizer import MOST_CHARACTERS, Tokenizer, trimmed
from tests.support.text.tiny_text import VOCAB_SIZE, VOCABULARY

TEXTS = [
    "a photo of a cat",
    "",
    "A&amp;amp;B  \t c",
    "🐱 沙发上的猫",
    "<|endoftext|> x",
    " ".join(["cat"] * 100),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dinov3_ref.text import Tokenizer as Reference

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(Reference(VOCABULARY, VOCAB_SIZE).to_json(), "utf-8")
    return path


def test_ids_are_the_references(file: Path) -> None:
    from dinov3_ref.text import Tokenizer as Reference

    ids = Tokenizer(file, 77, VOCAB_SIZE)(TEXTS)
    assert ids.dtype == np.int64
    assert ids.tolist() == Reference(VOCABULARY, VOCAB_SIZE).tokenize(TEXTS).tolist()
    assert Tokenizer(file, 77, VOCAB_SIZE)([]).shape[0] == 0


def test_trimming_keeps_the_last_end(file: Path) -> None:
    ids = Tokenizer(file, 77, VOCAB_SIZE)(["a photo of a cat", "cat"])
    assert trimmed(ids).tolist() == ids[:, :7].tolist()


def test_another_models_tokenizer_is_refused(file: Path) -> None:
    with pytest.raises(BundleError, match="makes 77 ids of 3,514 tokens; wanted 77 of 49,408"):
        Tokenizer(file, 77, 49_408)
    with pytest.raises(BundleError, match="wanted 64 of 3,514"):
        Tokenizer(file, 64, VOCAB_SIZE)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"version": "1.0"')
    with pytest.raises(BundleError, match="is not a tokenizer that can be read") as error:
        Tokenizer(path, 77, VOCAB_SIZE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"bytes", "a text is a bytes; wanted str"),
        ("x" * (MOST_CHARACTERS + 1), "has 100,001 characters"),
        ("half \ud800", "wanted valid Unicode"),
    ],
)
def test_what_is_not_a_text(file: Path, text: str, message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        Tokenizer(file, 77, VOCAB_SIZE)([text])


def test_without_the_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UnavailableError, match=r"pip install 'dinodeploy\[text\]'"):
        Tokenizer(file, 77, VOCAB_SIZE)
