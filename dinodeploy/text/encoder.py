"""`TextEncoder`: the verified text graph of a dino.txt bundle, texts in, embeddings out.

Shapes: T texts, N tokens of each, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray, IdArray
from dinodeploy.backends import Backend
from dinodeploy.backends.select import open_verified
from dinodeploy.bundle.bundle import Bundle, EngineChoice
from dinodeploy.bundle.text_facts import TEXT_GOLDEN_FILE, TEXT_OUTPUT, TextFacts
from dinodeploy.errors import JudgementError, MisuseError, UnavailableError, raise_if_interrupted
from dinodeploy.parity.judge import rejection, unit_rows
from dinodeploy.parity.measurement import Verdict
from dinodeploy.parity.receipts import Receipt, find_receipt, make_receipt, save_receipt
from dinodeploy.parity.text import judge_texts, load_texts
from dinodeploy.text.tokenizer import Tokenizer, trimmed

BATCH = 32  # texts a run
CUDA, CPU = "onnxruntime_cuda", "onnxruntime"
# device -> backends, best first. TensorRT plans are of the image graph; texts run on ONNX Runtime.
DEVICES: dict[str, tuple[str, ...]] = {
    "auto": (CUDA, CPU),
    "cpu": (CPU,),
    "onnxruntime": (CPU,),
    "openvino": (CPU,),
    "cuda": (CUDA,),
    "tensorrt": (CUDA, CPU),
}


class TextEncoder:
    """An opened text graph. Use `TextEncoder.open`. Threads may share it."""

    def __init__(self, choice: EngineChoice, backend: Backend, tokenizer: Tokenizer) -> None:
        self.choice, self.backend, self.tokenize = choice, backend, tokenizer
        self.receipt: Receipt | None = None

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        device: str = "auto",
        allow_unverified: bool = False,
        threads: int | None = None,
    ) -> TextEncoder:
        """Open the text graph of a bundle; its files are hashed first, and it is judged if it was not.

        Raises MisuseError for a bundle without one, UnavailableError, BundleError, TamperedError and
        JudgementError as `Embedder.open`.
        """
        facts = text_facts(bundle)
        choice, backend = _open_on(bundle, device, threads)
        try:
            path = bundle.root / facts.vocabulary
            encoder = cls(choice, backend, Tokenizer(path, facts.context_length, facts.vocabulary_size))
            if not allow_unverified:
                encoder.receipt = find_receipt(choice, backend.runtime, backend.device)
                if encoder.receipt is None and not (verdict := encoder.check()).passed:
                    raise JudgementError(rejection(choice, verdict))
        except BaseException:
            backend.close()
            raise
        return encoder

    def encode(self, texts: str | Iterable[str], *, normalize: bool = False) -> FloatArray:
        """Texts -> float32 [T,E]; one text -> [E]. `normalize` divides each by its length."""
        given = [texts] if isinstance(texts, str) else list(texts)
        rows = [self.run(trimmed(ids)) for ids in self._batches(given)]
        embedding = np.concatenate(rows) if rows else np.zeros((0, text_facts(self.choice.bundle).embed_dim))
        embedding = embedding.astype(np.float32, copy=False)
        embedding = unit_rows(embedding) if normalize else embedding
        return embedding[0] if isinstance(texts, str) else embedding

    def _batches(self, texts: list[str]) -> Iterator[IdArray]:
        for start in range(0, len(texts), BATCH):
            yield self.tokenize(texts[start : start + BATCH])

    def run(self, token_ids: IdArray) -> FloatArray:
        """Token ids int64 [T,N], N up to the context length -> [T,E]."""
        made: FloatArray = self.backend.run(token_ids)[TEXT_OUTPUT]
        return made

    def check(self) -> Verdict:
        """Judge tokenizer and graph on the golden texts now, and save the receipt."""
        golden = load_texts(self.choice.root / TEXT_GOLDEN_FILE)
        verdict = judge_texts(golden, self.tokenize, self.run, self.choice.manifest.graph.recipe)
        self.receipt = make_receipt(self.choice, self.backend.runtime, self.backend.device, verdict)
        save_receipt(self.choice.bundle, self.receipt)
        return verdict

    def close(self) -> None:
        self.backend.close()


def open_beside(bundle: Bundle, opened: partial[Any] | None) -> TextEncoder:
    """The text graph of a bundle, with the options that its image graph was opened with."""
    given = opened.keywords if opened is not None else {}
    names = ("device", "allow_unverified", "threads")
    return TextEncoder.open(bundle, **{name: given[name] for name in names if name in given})


def text_facts(bundle: Bundle) -> TextFacts:
    """Raises MisuseError for a bundle without a text graph."""
    if bundle.manifest.text is None:
        raise MisuseError(
            f"{bundle.named} has no text graph; export a dino.txt model: dinodeploy export "
            "--weights BACKBONE --head HEAD_FILE --vocab bpe_simple_vocab_16e6.txt.gz"
        )
    return bundle.manifest.text


def text_candidates(bundle: Bundle, device: str) -> list[EngineChoice]:
    """The text engines that `device` allows, best first. Raises MisuseError for an unknown device."""
    if device not in DEVICES:
        raise MisuseError(f"--device {device!r} is unknown; wanted one of {', '.join(DEVICES)}")
    facts, engines = text_facts(bundle), bundle.manifest.text_engines
    on_cpu = [name for name, engine in engines.items() if engine.backend == CPU]
    names = {CUDA: [facts.graph], CPU: on_cpu[:1]}
    return [EngineChoice(bundle, name, backend) for backend in DEVICES[device] for name in names[backend]]


def _open_on(bundle: Bundle, device: str, threads: int | None) -> tuple[EngineChoice, Backend]:
    """The first engine that this machine runs. Raises UnavailableError with every reason."""
    reasons = []
    for choice in text_candidates(bundle, device):
        try:
            return choice, open_verified(choice, choice.needed_files, threads=threads)
        except UnavailableError as error:
            raise_if_interrupted(error)
            reasons.append(str(error))
    raise UnavailableError("; ".join(dict.fromkeys(reasons)))
