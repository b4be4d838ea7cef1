"""The tokenizer against transformers' CLIP tokenizer, on the same merges."""

from __future__ import annotations

import gzip
import html
import random
from pathlib import Path

import pytest

import dinov3_ref.torchvision_shim  # noqa: F401  (before transformers)
from dinov3_ref.errors import CheckpointError
from dinov3_ref.text import Tokenizer
from dinov3_ref.text.tokenizer import END, START, byte_letters
from tests.support.text.tiny_text import VOCAB_SIZE, VOCABULARY

# Letters of twenty languages, signs, and what cleaning is about.
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "the and ing photo of a cat ",
    "0123456789",
    ' .,!?;:-_()[]{}/\\|@#$%^*+=~`"',
    "'s't're've'm'll'd",
    "äöüßéèêçñåøæœ",
    "ąćęłńóśźżčďěňřšťůž",
    "ğışçİ",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "हिन्दीसोफेपरएकबिल्ली",
    "বাংলাএকটিলাল",
    "แมวบนโซฟา",
    "ăâđêôơưạảấầẩẫậ",
    "沙发上的猫照片",
    "ソファのうえのねこ",
    "소파위의고양이",
    "😀🐱🚲👩\u200d👧🇩🇪🏽\ufe0f",
    "&amp;&lt;&gt;&quot;&#39;&amp;lt;&nbsp;",
    "\t\n\r\v\f\u00a0\u2003\u3000\u0085\x1c",
    "ﬁ①㍿e\u0301\u200d\ufeff",
)
KNOWN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "A  PHOTO\nof a cat": [320, 1125, 539, 320, 2368],
    "": [],
    "!": [256],
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY, VOCAB_SIZE)


def merges() -> list[tuple[str, ...]]:
    return [
        tuple(line.split())
        for line in gzip.open(VOCABULARY, "rt", encoding="utf-8").read().split("\n")[1:3001]
    ]


def strings(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        alphabets = rng.sample(ALPHABETS, rng.randint(1, 5))
        parts = [rng.choice(alphabets) for _ in range(rng.randint(0, 30))]
        text = "".join("".join(rng.choices(part, k=rng.randint(1, 6))) for part in parts)
        made.append(text + (rng.choice((START, END, " &amp;amp; ")) + "x" if rng.random() < 0.05 else ""))
    return made


def test_ten_thousand_strings_as_transformers(tokenizer: Tokenizer) -> None:
    from transformers import CLIPTokenizer

    letters = byte_letters()
    names = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges()), START, END]
    oracle = CLIPTokenizer(vocab={name: index for index, name in enumerate(names)}, merges=merges())
    texts = [*strings(10_000), *KNOWN, " ".join(f"word{number}" for number in range(100))]
    unescaped = [html.unescape(html.unescape(text)) for text in texts]
    wanted = oracle(unescaped, truncation=True, max_length=77)["input_ids"]
    assert tokenizer.tokenize(texts).tolist() == [ids + [0] * (77 - len(ids)) for ids in wanted]


@pytest.mark.parametrize("text", KNOWN)
def test_published_ids(tokenizer: Tokenizer, text: str) -> None:
    """Ids of words among the first merges, as in the released tokenizer; start and end are its last two."""
    wanted = [VOCAB_SIZE - 2, *KNOWN[text], VOCAB_SIZE - 1]
    assert tokenizer.tokenize(text)[0].tolist() == wanted + [0] * (77 - len(wanted))


def test_a_long_text_keeps_its_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.tokenize(["cat " * 200, "cat"])
    assert ids.shape == (2, 77)
    assert ids[0, -1] == VOCAB_SIZE - 1
    assert (ids[0, 1:-1] == 2368).all()


def test_a_smaller_context(tokenizer: Tokenizer) -> None:
    small = Tokenizer(VOCABULARY, VOCAB_SIZE, context_length=4)
    assert small.tokenize("a photo of a cat")[0].tolist() == [VOCAB_SIZE - 2, 320, 1125, VOCAB_SIZE - 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 merges, this model needs 3,000"),
        (b"comment\ni n\nt h\n", "has 2 merges"),
        (b"\x1f\x8bnot gzip", "is not a vocabulary that can be read"),
        (b"\xff\xfe\x00", "is not a vocabulary that can be read"),
        (b"comment\n" + b"one two three\n" * 3000, "has 0 merges"),
        (b"comment\n" + b"\xc4\xa0zz qq\n" * 3000, "make no vocabulary"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocabulary"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        Tokenizer(path, VOCAB_SIZE)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Tokenizer(tmp_path / "nothing", VOCAB_SIZE)
