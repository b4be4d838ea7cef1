"""`dinodeploy.classify` and `dinodeploy.segment`: predictions for labels that the user names.

    dinodeploy.classify("photos/", engine="bundle", labels="labels.txt", out="classes")
    dinodeploy.segment("photos/", engine="bundle", labels=["sky", "sea", "a sailing boat"], out="maps")

They need the bundle of a dino.txt model. Sources, results, resuming and errors are those of `predict`.

Shapes: B images, H W pixels of the resized images, n windows, h w patch grid of a window, E embedding size,
K labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, sides_of
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.files.paths import PathLike, given_paths
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.progress import Log, image_progress
from dinodeploy.tasks.predict import Predictor, PredictReport, RunOptions, predict_images
from dinodeploy.tasks.prediction import Prediction
from dinodeploy.text import segment as windows_of
from dinodeploy.text.classify import probabilities
from dinodeploy.text.encoder import TextEncoder, text_facts
from dinodeploy.text.labels import Labels, labels_of
from dinodeploy.text.segment import Window, class_ids, patch_cosines, window_places
from dinodeploy.text.templates import find_templates
from dinodeploy.text.vectors import ClassVectors, embed_labels

Given = PathLike | Iterable[str]  # a file of labels, or labels
IMAGE_EMBEDDING, PATCH_EMBEDDING = "image_embedding", "patch_embedding"
# Arguments of `predict` that both calls pass on.
OPTIONS = (
    *("save", "html", "column", "id_column", "every", "device", "batch", "threads", "time_limit"),
    *("max_pixels", "require_signature", "allow_unverified", "overwrite"),
)
WINDOWS = "windows"  # the output that `Windowed` makes


def classify(
    images: PathLike | Iterable[PathLike],
    *,
    engine: PathLike,
    labels: Given,
    templates: PathLike = "imagenet",
    out: PathLike | None = None,
    top: int = 5,
    imgsz: int | tuple[int, int] | None = None,
    progress: bool = False,
    log: Log = lambda text: None,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
    **options: Any,
) -> PredictReport:
    """Give every image probabilities for labels, with the bundle of a dino.txt model.

    labels: a path to a text file with one label per line, or the labels.
    templates: imagenet (the 80 published ones), none, or a file with one per line; {} stands for the label.
    top: number of classes per image. The probabilities are softmax(scale · cosine) over all labels.
    options: out, column, id_column, every, device, batch, threads, time_limit, max_pixels, require_signature,
        allow_unverified and overwrite, as in `predict`.

    Raises MisuseError for labels, templates or a bundle that cannot be used; as `predict`.
    """
    chosen, filled = _read(labels, templates, log)
    if top < 1:
        raise MisuseError(f"--top is {top}; wanted at least 1")
    run = _options(out, imgsz, options)
    make = partial(_classifier, labels=chosen, templates=filled, top=top, run=run, progress=progress)
    return predict_images(given_paths(images), Path(engine), run, make, each=each, progress=progress, log=log)


def segment(
    images: PathLike | Iterable[PathLike],
    *,
    engine: PathLike,
    labels: Given,
    templates: PathLike = "imagenet",
    out: PathLike | None = None,
    min_cosine: float | None = None,
    imgsz: int = windows_of.SHORT_SIDE,
    window: int = windows_of.SIDE,
    stride: int = windows_of.STRIDE,
    progress: bool = False,
    log: Log = lambda text: None,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
    **options: Any,
) -> PredictReport:
    """Give every pixel the nearest of the labels, with a dino.txt bundle.

    labels, templates, options: as in `classify`; and save and html, as in `predict`.
    min_cosine: pixels whose best label has a smaller cosine are background (255); default: none are.
    imgsz: the short side that images are resized to. window, stride: side and distance of the square windows
        that are read, in pixels (docs/spec.md 5.9).

    Raises as `classify`.
    """
    chosen, filled = _read(labels, templates, log)
    if len(chosen) > windows_of.MOST_LABELS:
        raise MisuseError(f"{len(chosen)} labels; wanted at most {windows_of.MOST_LABELS}: ids are one byte")
    if min_cosine is not None and not -1 <= min_cosine <= 1:
        raise MisuseError(f"--min-cosine is {min_cosine:g}; wanted a number from -1 to 1")
    run = _options(out, None, options)
    make = partial(
        _segmenter,
        labels=chosen,
        templates=filled,
        sizes=(imgsz, window, stride),
        min_cosine=min_cosine,
        run=run,
        progress=progress,
    )
    return predict_images(given_paths(images), Path(engine), run, make, each=each, progress=progress, log=log)


@dataclass(frozen=True)
class Windowed:
    """An engine that reads images in windows and compares patches with labels (a `Runner`)."""

    embedder: Embedder
    classes: FloatArray  # [K,E]
    side: int
    stride: int

    @property
    def engine(self) -> Any:
        return self.embedder.engine

    @property
    def backend(self) -> Any:
        return self.embedder.backend

    @property
    def output_names(self) -> tuple[str, ...]:
        return (WINDOWS,)

    def run(self, pixels: Any, *, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """[B,3,H,W] -> {"windows": cosines [B,n,h,w,K]}, the windows in the order of `window_places`."""
        found = []
        is_bytes = pixels.dtype == np.uint8
        for top, left, height, width in window_places(sides_of(pixels), self.side, self.stride):
            rows, columns = slice(top, top + height), slice(left, left + width)
            part = np.ascontiguousarray(pixels[:, rows, columns] if is_bytes else pixels[:, :, rows, columns])
            made = self.embedder.run(part, outputs=(PATCH_EMBEDDING,))
            found.append(patch_cosines(made[PATCH_EMBEDDING], self.classes))
        return {WINDOWS: np.stack(found, axis=1)}


def _classifier(
    embedder: Embedder,
    steps: Preprocess,
    *,
    labels: Labels,
    templates: tuple[str, ...],
    top: int,
    run: RunOptions,
    progress: bool,
) -> Predictor:
    scale = text_facts(embedder.bundle).logit_scale
    vectors = _vectors(embedder, labels, templates, run, progress)

    def predict_one(outputs: Mapping[str, AnyArray], size: tuple[int, int]) -> Prediction:
        shares, cosines = probabilities(outputs[IMAGE_EMBEDDING][None], vectors.whole, scale)
        best = np.argsort(-shares[0], kind="stable")[:top]
        classes = [
            {
                "class": labels.names[k],
                "probability": float(shares[0, k]),
                "cosine": float(cosines[0, k]),
            }
            for k in best
        ]
        return Prediction("classify", {"classes": classes})

    facts = {"labels": labels.names, "templates": templates, "top": top}
    return Predictor("classify", (IMAGE_EMBEDDING,), labels.names, predict_one, facts)


def _segmenter(
    embedder: Embedder,
    steps: Preprocess,
    *,
    labels: Labels,
    templates: tuple[str, ...],
    sizes: tuple[int, int, int],
    min_cosine: float | None,
    run: RunOptions,
    progress: bool,
) -> Predictor:
    short_side, side, stride = sizes
    windows_of.check_windows(*sizes, steps.patch_size)
    vectors = _vectors(embedder, labels, templates, run, progress)
    whole = steps.with_preset("keep-aspect", (short_side, short_side))

    def predict_one(outputs: Mapping[str, AnyArray], size: tuple[int, int]) -> Prediction:
        resized = whole.target_size(*size)
        places = window_places(resized, side, stride)
        windows = [Window(*place, found) for place, found in zip(places, outputs[WINDOWS], strict=True)]
        ids = class_ids(windows, resized, size[::-1], min_cosine)
        counts = np.sum([np.bincount(row, minlength=windows_of.MOST_LABELS + 1) for row in ids], axis=0)
        order = [int(k) for k in np.argsort(-counts[: len(labels)], kind="stable") if counts[k]]
        shares = {labels.names[k]: float(counts[k] / ids.size) for k in order}
        return Prediction("segment", {"shares": shares}, ids)

    facts = {"labels": labels.names, "templates": templates, "windows": sizes, "min_cosine": min_cosine}
    return Predictor(
        "segment",
        (WINDOWS,),
        labels.names,
        predict_one,
        facts,
        preprocess=whole,
        runner=Windowed(embedder, vectors.patch, side, stride),
    )


def _vectors(
    embedder: Embedder, labels: Labels, templates: tuple[str, ...], run: RunOptions, progress: bool
) -> ClassVectors:
    """Class vectors of the labels. The text graph is closed again: it is as large as the image graph."""
    opened = TextEncoder.open(
        embedder.bundle,
        device=run.device,
        threads=run.threads,
        allow_unverified=run.allow_unverified,
    )
    with closing(opened) as encoder:
        silent = nullcontext(lambda done, failed, bottleneck="": None)
        with image_progress(len(labels), doing="labels") if progress else silent as advance:
            return embed_labels(encoder, labels, templates, advance)


def _read(labels: Given, templates: PathLike, log: Log) -> tuple[Labels, tuple[str, ...]]:
    chosen = labels_of(Path(labels) if isinstance(labels, (str, os.PathLike)) else labels)
    for note in chosen.notes:
        log(f"[labels] {note}")
    return chosen, find_templates(os.fspath(templates))


def _options(out: PathLike | None, imgsz: int | tuple[int, int] | None, given: dict[str, Any]) -> RunOptions:
    """Raises MisuseError for an option that `predict` does not have."""
    if unknown := sorted(given.keys() - set(OPTIONS)):
        raise MisuseError(f"unknown option {unknown[0]}; wanted some of {', '.join(OPTIONS)}")
    return RunOptions.of(out=out, imgsz=imgsz, **given)
