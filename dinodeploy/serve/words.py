"""Texts in the service: embeddings of words for /search?text=, and zero-shot classes for /classify.

The text graph is that of the served bundle, and its fingerprint is part of an index': texts and images of
different models are never compared. Texts run one request after the other in a thread of their own, and
recent ones are remembered.

Shapes: T texts, K labels, N images, E embedding size.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import Bundle
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.settings import Settings
from dinodeploy.text.classify import probabilities
from dinodeploy.text.labels import labels_of, read_labels
from dinodeploy.text.templates import find_templates
from dinodeploy.text.vectors import embed_labels

if TYPE_CHECKING:
    from dinodeploy.search import Hit
    from dinodeploy.text.encoder import TextEncoder

IMAGE_EMBEDDING = "image_embedding"
MOST_LABELS = 64  # of one request
LONGEST = 1000  # characters of a text or a label; a model reads a few hundred
TEMPLATE = "a photo of a {}."  # of labels that a request names
_REMEMBERED = 4096  # texts
_MOST_WAITING = 256  # texts that wait or run
_SOON = 1  # Retry-After in seconds


@dataclass(frozen=True)
class Classes:
    """Labels with their class vectors [K,E]."""

    names: tuple[str, ...]
    vectors: FloatArray


class Words:
    """The opened text graph of a service. Close it after use.

    classes: those of the service's labels file, or None.
    """

    def __init__(self, encoder: TextEncoder, settings: Settings) -> None:
        """Raises MisuseError for a labels file that cannot be used."""
        facts = encoder.choice.manifest.text
        assert facts is not None, "it has a text graph"
        self.logit_scale = facts.logit_scale
        self._encoder = encoder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="texts")
        self._known: OrderedDict[str, FloatArray] = OrderedDict()
        self._waiting = 0
        self.classes: Classes | None = None
        if settings.labels is not None:
            labels = read_labels(settings.labels)
            found = embed_labels(encoder, labels, find_templates(settings.templates))
            self.classes = Classes(labels.names, found.whole)

    @classmethod
    def open(cls, bundle: Bundle, settings: Settings) -> Words | None:
        """The text graph of a bundle, None if it has none or `tokenizers` is missing.

        Raises MisuseError for labels that such a service could not use; as `TextEncoder.open`.
        """
        try:
            if bundle.manifest.text is not None:
                from dinodeploy.text.encoder import TextEncoder

                encoder = TextEncoder.open(
                    bundle,
                    device=settings.device,
                    threads=settings.threads,
                    allow_unverified=settings.allow_unverified,
                )
                try:
                    return cls(encoder, settings)
                except BaseException:
                    encoder.close()
                    raise
        except UnavailableError:
            if settings.labels is not None:
                raise
        if settings.labels is not None:
            raise MisuseError(
                f"--labels: {bundle.named} has no text graph; serve the bundle of a dino.txt model"
            )
        return None

    async def vectors(self, texts: Sequence[str]) -> FloatArray:
        """Texts -> [T,E]. Raises Refused, 503 if too many wait, 422 for a text that cannot be read."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if self._waiting + len(missing) > _MOST_WAITING:
            raise Refused(503, f"{self._waiting} texts are waiting; retry later", _SOON)
        found: dict[str, FloatArray] = {}
        if missing:
            self._waiting += len(missing)
            try:
                loop = asyncio.get_running_loop()
                rows = await loop.run_in_executor(self._pool, self._encoder.encode, missing)
            except MisuseError as error:
                raise Refused(422, str(error)) from error
            finally:
                self._waiting -= len(missing)
            found = dict(zip(missing, rows, strict=True))
        rows_of = [found[text] if text in found else self._recall(text) for text in texts]
        for text, row in found.items():
            self._known[text] = row
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return np.stack(rows_of)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text the model reads, start and end included."""

        def count() -> list[int]:
            return [int(row) + 1 for row in self._encoder.tokenize(texts).argmax(axis=1)]

        return await asyncio.get_running_loop().run_in_executor(self._pool, count)

    def _recall(self, text: str) -> FloatArray:
        self._known.move_to_end(text)
        return self._known[text]

    async def find_classes(self, labels: Sequence[str], template: str) -> Classes:
        """The classes that a request names, or those of the service. Raises Refused, 413 and 422."""
        if not labels:
            if self.classes is None:
                raise Refused(
                    422, "no labels: add label=cat&label=dog, or start the service with --labels FILE"
                )
            return self.classes
        if len(labels) > MOST_LABELS:
            raise Refused(
                413,
                f"{len(labels)} labels; wanted at most {MOST_LABELS}: start the service with --labels FILE",
            )
        if template.count("{}") != 1 or max(map(len, (template, *labels))) > LONGEST:
            raise Refused(
                422,
                f"template and labels: wanted {{}} once in the template, and at most {LONGEST} characters",
            )
        try:
            names = labels_of(labels).names
        except MisuseError as error:
            raise Refused(422, str(error)) from error
        return Classes(names, await self.vectors([template.replace("{}", name) for name in names]))

    def rank(self, images: FloatArray, classes: Classes, top: int) -> list[list[dict[str, Any]]]:
        """Image embeddings [N,E] -> the `top` classes of each, the best first. Raises Refused, 500."""
        try:
            shares, cosines = probabilities(images, classes.vectors, self.logit_scale)
        except MisuseError as error:
            raise Refused(500, str(error)) from error
        return [
            [
                {"class": classes.names[k], "probability": float(row[k]), "cosine": float(cosines[n, k])}
                for k in np.argsort(-row, kind="stable")[:top]
            ]
            for n, row in enumerate(shares)
        ]

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._encoder.close()


# `service` below is the `Service`, which imports this module.


async def search_text(service: Any, text: str, k: int, filter: str | None) -> list[Hit]:
    """The `k` indexed images nearest to a text. Raises Refused, 404 without an index or a text graph."""
    index, words = service.neighbours, words_of(service)
    if index.output != IMAGE_EMBEDDING:
        raise Refused(
            404, f"the index compares {index.output}; texts need an index of the output {IMAGE_EMBEDDING}"
        )

    async def find() -> list[Hit]:
        (vector,) = await words.vectors([text])
        return await service.nearest(vector, k, filter, None)

    return await service.in_time(find())


async def classify_images(
    service: Any, questions: Sequence[Any], labels: Sequence[str], template: str, top: int
) -> list[tuple[str, list[dict[str, Any]]]]:
    """(name, the `top` classes) of each image. Raises Refused, 404 without a text graph."""
    words = words_of(service)
    classes = await service.in_time(words.find_classes(labels, template))
    answers = await service.embed(questions, [IMAGE_EMBEDDING])
    embeddings = np.stack([answer.outputs[IMAGE_EMBEDDING] for answer in answers])
    ranked = words.rank(embeddings, classes, top)
    return [(answer.name, found) for answer, found in zip(answers, ranked, strict=True)]


def words_of(service: Any) -> Words:
    if service.words is None:
        raise Refused(404, "this service has no text graph; serve the bundle of a dino.txt model")
    return service.words
