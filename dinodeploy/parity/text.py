"""Judge a text graph: golden texts, their token ids and the reference's embeddings.

`golden.text.safetensors` holds

    text_<i>         [n] uint8       a text in UTF-8
    token_ids        [T,N] int64     as the reference's tokenizer makes them
    text_embedding   [T,E] float32   as the fp32 reference's tower makes them of these, not normalised

Tokens and embeddings are judged separately, so that a wrong vocabulary shows before the engine has run. Every
text counts: the worst decides.

Shapes: T texts, N context length, E embedding size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, IdArray
from dinodeploy.bundle.text_facts import TEXT_OUTPUT
from dinodeploy.errors import BundleError
from dinodeploy.files.tensors import load_tensors, save_tensors
from dinodeploy.parity.judge import cosine, knn_agreement
from dinodeploy.parity.measurement import Measurement, Verdict
from dinodeploy.parity.thresholds import TEXT_THRESHOLDS, Threshold
from dinodeploy.text.tokenizer import trimmed

TOKENS = "token_ids"
_TEXT = re.compile(r"text_(\d+)")
FEW = 3  # texts that are also run alone, and as a short batch


@dataclass(frozen=True)
class GoldenTexts:
    """Texts, their token ids [T,N] and embeddings [T,E]."""

    texts: tuple[str, ...]
    token_ids: IdArray
    embeddings: FloatArray


def save_texts(golden: GoldenTexts, path: Path) -> None:
    tensors: dict[str, AnyArray] = {
        f"text_{index}": np.frombuffer(text.encode(), np.uint8) for index, text in enumerate(golden.texts)
    }
    save_tensors(path, {**tensors, TOKENS: golden.token_ids, TEXT_OUTPUT: golden.embeddings})


def load_texts(path: Path) -> GoldenTexts:
    """Raises BundleError when the file holds anything but texts, ids and embeddings."""
    tensors = load_tensors(path)
    ids, embeddings = tensors.pop(TOKENS, None), tensors.pop(TEXT_OUTPUT, None)
    numbers = {int(match[1]): name for name in tensors if (match := _TEXT.fullmatch(name))}
    whole = len(numbers) == len(tensors) and sorted(numbers) == list(range(len(tensors)))
    if ids is None or embeddings is None or not whole or not len(tensors) == len(ids) == len(embeddings) > 0:
        raise BundleError(f"{path}: incomplete; wanted texts, and {TOKENS} and {TEXT_OUTPUT} of each")
    try:
        texts = tuple(tensors[numbers[index]].tobytes().decode() for index in range(len(numbers)))
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: a text is not UTF-8") from error
    return GoldenTexts(texts, ids, embeddings)


def judge_texts(
    golden: GoldenTexts,
    tokenize: Callable[[Sequence[str]], IdArray],
    run: Callable[[IdArray], FloatArray],
    recipe: str,
) -> Verdict:
    """Judge tokens, and the embeddings [T,E] that `run` makes of token ids [T,N]: in one batch, in a short
    one, and alone."""
    limits = {threshold.metric: threshold for threshold in TEXT_THRESHOLDS[recipe]}
    ids = tokenize(golden.texts)
    same = float((ids == golden.token_ids).all(axis=1).mean()) if ids.shape == golden.token_ids.shape else 0.0
    found = [_held("all", TOKENS, "same_tokens", same, limits)]
    short = trimmed(golden.token_ids[:FEW])
    for case, given, wanted in (
        ("all", golden.token_ids, golden.embeddings),
        ("short", short, golden.embeddings[:FEW]),
        ("one", trimmed(golden.token_ids[:1]), golden.embeddings[:1]),
    ):
        got = run(given)
        if got.shape != wanted.shape or not np.isfinite(got).all():
            note = f"got {list(got.shape)}, wanted {list(wanted.shape)}" if got.shape != wanted.shape else ""
            found.append(Measurement(case, TEXT_OUTPUT, "cosine", None, None, False, note))
            continue
        wide, reference = got.astype(np.float64), wanted.astype(np.float64)
        errors = np.linalg.norm(wide - reference, axis=1) / np.linalg.norm(reference, axis=1)
        found.append(_held(case, TEXT_OUTPUT, "cosine", float(cosine(wide, reference).min()), limits))
        found.append(_held(case, TEXT_OUTPUT, "largest_error", float(errors.max()), limits))
        if case == "all":
            agreement = knn_agreement(got, wanted, k=1)
            found.append(Measurement(case, TEXT_OUTPUT, "nearest_neighbour", agreement, None, True))
    return Verdict(recipe, tuple(found))


def _held(case: str, output: str, metric: str, value: float, limits: dict[str, Threshold]) -> Measurement:
    return Measurement(case, output, metric, value, limits[metric].limit, limits[metric].holds(value))
