"""Predictions of a bundle's head, in the pixels of the original images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.heads.features import run_readable
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import Decoded
from dinodeploy.pipeline.runner import BATCH_SIZE
from dinodeploy.tasks import classify, depth, segment
from dinodeploy.tasks.prediction import Prediction, PredictOptions

# task of a head -> outputs of one image, head, (width, height) of the original image, preprocessing, options
PREDICT_ONE: dict[str, Callable[..., Prediction]] = {
    "classify": classify.predict_one,
    "segment": segment.predict_one,
    "depth": depth.predict_one,
}
DEFAULT_OPTIONS = PredictOptions()


@dataclass(frozen=True)
class Predicted:
    """An image with its prediction."""

    id: str
    prediction: Prediction


@dataclass(frozen=True)
class Unread:
    """An image that cannot be read."""

    id: str
    reason: str


def head_of(embedder: Embedder) -> HeadFacts:
    """The head of the bundle. Raises MisuseError if it has no head, or the head predicts nothing."""
    head = embedder.manifest.head
    root = embedder.bundle.home
    if head is None:
        raise MisuseError(
            f"{root} has no head; train one: dinodeploy train-head --engine {root} --task classify --data …"
        )
    if head.task not in PREDICT_ONE:
        names = ",".join(head.outputs)
        raise MisuseError(
            f"{root} has a head that gives features ({names}), not predictions; store them: "
            f"dinodeploy embed IMAGES --engine {root} --outputs {names}"
        )
    return head


def predict(
    embedder: Embedder,
    ids: Sequence[str],
    preprocess: Preprocess,
    options: PredictOptions = DEFAULT_OPTIONS,
    *,
    batch_size: int = BATCH_SIZE,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[Predicted | Unread]:
    """A prediction or the reason of a failure for each image, as they are computed.

    Readable images come in order. limits: of one image.
    """
    head = head_of(embedder)
    predict_one = PREDICT_ONE[head.task]
    unread: list[Unread] = []

    def skip(item: Decoded) -> None:
        unread.append(Unread(item.id, item.reason))

    for batch, outputs in run_readable(embedder, ids, preprocess, batch_size, skip, limits):
        while unread:
            yield unread.pop(0)
        for row, item in enumerate(batch):
            of_image = {name: outputs[name][row] for name in head.outputs}
            yield Predicted(item.id, predict_one(of_image, head, item.size, preprocess, options))
    yield from unread
