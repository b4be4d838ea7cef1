"""Tokenizer of dino.txt: CLIP's byte-pair encoding, from its vocabulary file (arXiv:2103.00020, 2.4).

    text ─> html entities ─> NFC, white space to one space, lower case ─> words ─> bytes ─> merges ─> ids

An id is the place of a token in this order: 256 bytes, 256 bytes that end a word, one token for each merge,
start, end. The file (bpe_simple_vocab_16e6.txt.gz) holds a comment and one merge a line, the first ones
first; it has more than the model uses. `to_json` writes all of it for the library `tokenizers`, which a
runtime loads without torch.
"""

from __future__ import annotations

import gzip
import html
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.errors import CheckpointError, ConfigError, reason_of

START, END = "<|startoftext|>", "<|endoftext|>"
BYTES = 256
WORD_END = "</w>"
# Words of a text: contractions, runs of letters, single digits, runs of other signs.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MAX_VOCABULARY_BYTES = 64 << 20  # unpacked; the published file has 3 MB


class Tokenizer:
    """Texts -> token ids [T,N]: start, tokens, end, zeros. A long text loses tokens before its end token."""

    def __init__(self, vocabulary: str | Path, vocab_size: int = 49_408, context_length: int = 77) -> None:
        """Read a vocabulary file.

        Raises CheckpointError for a file that is not one, or has fewer merges than `vocab_size` needs;
        ConfigError when the package `tokenizers` is missing.
        """
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.backend = _build(_read_merges(Path(vocabulary), vocab_size), context_length)

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """One text or several -> int64 [T,N]."""
        given = [texts] if isinstance(texts, str) else list(texts)
        cleaned = [unescape(text) for text in given]
        rows = [encoding.ids for encoding in self.backend.encode_batch(cleaned)]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), self.context_length)

    def to_json(self) -> str:
        """The tokenizer in the format of the library `tokenizers` (tokenizer.json)."""
        return str(self.backend.to_str(pretty=False))


def unescape(text: str) -> str:
    """HTML entities to what they stand for, twice: captions of web pages are often escaped twice."""
    return html.unescape(html.unescape(text))


def byte_letters() -> list[str]:
    """A printable letter for every byte, in the order of ids: printable bytes first, then the others."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(BYTES + index) for index in range(len(others))]


def _read_merges(path: Path, vocab_size: int) -> list[tuple[str, str]]:
    wanted = vocab_size - 2 * BYTES - 2
    if wanted < 0:
        raise CheckpointError(
            f"a vocabulary of {vocab_size} tokens is too small; wanted {2 * BYTES + 2} or more"
        )
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                content = file.read(MAX_VOCABULARY_BYTES)
        lines = content.decode("utf-8").split("\n")[1:]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a vocabulary that can be read ({reason_of(error)}); wanted "
            "bpe_simple_vocab_16e6.txt.gz as published"
        ) from error
    merges = [tuple(line.split()) for line in lines[:wanted]]
    wrong = next((index for index, merge in enumerate(merges) if len(merge) != 2), None)
    if wrong is not None or len(merges) < wanted:
        found = len(merges) if wrong is None else wrong
        raise CheckpointError(
            f"{path} has {found:,} merges, this model needs {wanted:,}; wanted bpe_simple_vocab_16e6.txt.gz "
            "as published"
        )
    return merges  # type: ignore[return-value]


def _build(merges: list[tuple[str, str]], context_length: int) -> Any:
    try:
        from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
        from tokenizers import Tokenizer as Backend
        from tokenizers.models import BPE
    except ImportError as error:
        raise ConfigError("texts need the package tokenizers: pip install 'dinodeploy[text]'") from error
    letters = byte_letters()
    names = [*letters, *(f"{letter}{WORD_END}" for letter in letters), *map("".join, merges), START, END]
    ids = {name: index for index, name in enumerate(names)}
    try:
        model = BPE(
            vocab=ids, merges=merges, continuing_subword_prefix="", end_of_word_suffix=WORD_END, unk_token=END
        )
    except Exception as error:  # it raises plain exceptions
        raise CheckpointError(
            f"these merges make no vocabulary ({reason_of(error)}); wanted the published order"
        ) from error
    backend = Backend(model)
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in (START, END)])
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    backend.enable_truncation(context_length)
    backend.enable_padding(length=context_length, pad_id=0, pad_token=letters[0])
    return backend
