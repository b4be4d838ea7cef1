"""The tokenizer of a dino.txt bundle: BUNDLE/tokenizer.json, read by the library `tokenizers`.

The file holds the whole rule (`dinov3_ref/text/tokenizer.py`) but HTML entities, which it does not know.

Shapes: T texts, N context length.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinodeploy.arrays import IdArray
from dinodeploy.errors import BundleError, MisuseError, UnavailableError, reason_of

MOST_CHARACTERS = 100_000  # of a text, of which a few hundred are read


class Tokenizer:
    """Texts -> token ids: start, tokens, end, zeros. A long text loses tokens before its end token."""

    def __init__(self, path: Path, context_length: int, vocabulary_size: int) -> None:
        """Raises UnavailableError without the package, BundleError for a file that is no such tokenizer."""
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError as error:
            raise UnavailableError(
                "texts need the package tokenizers: pip install 'dinodeploy[text]'"
            ) from error
        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # it raises plain exceptions
            raise BundleError(f"{path} is not a tokenizer that can be read: {reason_of(error)}") from error
        self.context_length = context_length
        size = self._backend.get_vocab_size()
        if size != vocabulary_size or len(self._backend.encode("").ids) != context_length:
            raise BundleError(
                f"{path} makes {len(self._backend.encode('').ids)} ids of {size:,} tokens; wanted "
                f"{context_length} of {vocabulary_size:,}: it is another model's"
            )

    def __call__(self, texts: Sequence[str]) -> IdArray:
        """Texts -> int64 [T,N]. Raises MisuseError for what is not a text."""
        for text in texts:
            if not isinstance(text, str):
                raise MisuseError(f"a text is a {type(text).__name__}; wanted str")
            if len(text) > MOST_CHARACTERS:
                raise MisuseError(
                    f"a text has {len(text):,} characters; wanted at most {MOST_CHARACTERS:,}: the model "
                    "reads the first few hundred"
                )
            if any("\ud800" <= sign <= "\udfff" for sign in text):
                raise MisuseError("a text holds half of a surrogate pair; wanted valid Unicode")
        cleaned = [html.unescape(html.unescape(text)) for text in texts]
        rows = [encoding.ids for encoding in self._backend.encode_batch(cleaned)]
        return np.array(rows, np.int64).reshape(len(rows), self.context_length)


def trimmed(ids: IdArray) -> IdArray:
    """Ids [T,N] without the columns behind every end token, which no embedding depends on."""
    return np.ascontiguousarray(ids[:, : 1 + int(ids.argmax(axis=1).max(initial=0))])
