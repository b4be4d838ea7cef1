"""Encode images in memory: one output of one image, of many, or of a stream; see `Embedder.encode`.

Shapes: N images, h, w patch grid, D embed_dim.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import closing, nullcontext
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast, get_args

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import EngineChoice
from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images.batches import batches_of_one_size, gather_by_size
from dinodeploy.images.inputs import Channels, ImageInput, as_source
from dinodeploy.images.open import open_image, open_reduced
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pooling import Outputs, needed, pick, with_pooled
from dinodeploy.pipeline.runner import OnError, Runner, Skipped
from dinodeploy.store.dtypes import unit_length

Encoded = tuple[int, "FloatArray | ImageError"]  # index of an image, and its row or why it has none


@dataclass(frozen=True)
class Encoding:
    """How to encode. Validated when created: MisuseError."""

    engine: EngineChoice
    preprocess: Preprocess
    output: str
    normalize: bool
    channels: Channels
    batch_size: int
    on_error: OnError

    def __post_init__(self) -> None:
        known = with_pooled(self.engine.outputs)
        if self.output not in known:
            raise MisuseError(f"output {self.output!r} is unknown; {self.engine.path} has {', '.join(known)}")
        for name, choices in (("channels", Channels), ("on_error", OnError)):
            if (value := getattr(self, name)) not in get_args(choices):
                raise MisuseError(f"{name} is {value!r}; wanted {' or '.join(get_args(choices))}")
        if self.batch_size < 1:
            raise MisuseError(f"batch_size is {self.batch_size}; wanted at least 1")

    def encode_one(self, embedder: Runner, image: ImageInput, skipped: list[Skipped]) -> FloatArray:
        """The row of one image."""
        if self.on_error == "skip":
            raise MisuseError("on_error 'skip' needs several images; for one image use 'raise' or 'nan'")
        try:
            source = as_source(image, self.channels)
            pixels = self.preprocess(open_reduced(source, self.preprocess.jpeg_scale)[0])
            made = embedder.run(pixels[np.newaxis], outputs=needed([self.output]))
            row = self._finite(pick(made, [self.output])[self.output][0])
        except ImageError as error:
            if self.on_error == "raise":
                raise
            skipped.append(Skipped(0, str(error)))
            return self._nan(self._shape())
        return self._finish(row)

    def encode_all(
        self, embedder: Runner, images: Iterable[ImageInput], skipped: list[Skipped], *, progress: bool
    ) -> FloatArray | list[FloatArray]:
        """The rows of all images, stacked: [N, ...]; a list where their shapes differ."""
        from dinodeploy.pipeline.progress import image_progress

        rows: dict[int, FloatArray] = {}
        total = len(images) if isinstance(images, Sized) else None
        with image_progress(total) if progress else nullcontext(lambda done, failed: None) as advance:
            for index, row in self._encode_each(embedder, images, total, keep_order=False):
                if isinstance(row, ImageError):
                    self._skip(index, row, skipped)
                else:
                    rows[index] = self._finish(row)
                advance(len(rows), len(skipped))
        skipped.sort()
        if self.on_error == "nan":
            shapes = {row.shape for row in rows.values()}
            nan = self._nan(shapes.pop() if len(shapes) == 1 else self._shape())
            rows.update((index, nan) for index, _ in skipped)
        elif skipped:
            index, reason = skipped[0]
            warnings.warn(
                f"{len(skipped)} of {len(skipped) + len(rows)} images have no row (see Embedder.skipped); "
                f"the first is number {index}: {reason}",
                stacklevel=3,
            )
        return _stack([rows[index] for index in sorted(rows)], _row_shape(self.engine, self.output, {}))

    def stream(
        self, embedder: Runner, images: Iterable[ImageInput], skipped: list[Skipped]
    ) -> Iterator[tuple[int, FloatArray]]:
        """Index and row of each image, in order."""
        for index, row in self._encode_each(embedder, images, None, keep_order=True):
            if not isinstance(row, ImageError):
                yield index, self._finish(row)
                continue
            self._skip(index, row, skipped)
            if self.on_error == "nan":
                yield index, self._nan(self._shape())

    def _encode_each(
        self, embedder: Runner, images: Iterable[ImageInput], total: int | None, *, keep_order: bool
    ) -> Iterator[Encoded]:
        """Each image's row, or why it has none; in order, or as batches of one size are gathered."""
        from dinodeploy.pipeline.decode import Decoded, decode_source, default_decoders, images_ahead
        from dinodeploy.pipeline.probe import limit_batch
        from dinodeploy.pipeline.run_batches import run_batches

        batch_size = self.batch_size
        if total:
            batch_size = limit_batch(batch_size, total, embedder.backend.parallel_runs)
        given, workers = _Given(images, self.channels), default_decoders()
        failed: deque[Encoded] = deque()

        def readable(items: Iterable[Decoded]) -> Iterator[Decoded]:
            for item in items:
                if item.pixels is not None:
                    yield item
                else:
                    kind = type(item.error) if isinstance(item.error, ImageError) else ImageError
                    failed.append((item.position, kind(item.reason)))

        group = batches_of_one_size if keep_order else gather_by_size
        ahead = images_ahead(batch_size, workers)
        with closing(decode_source(given, given.indices(), self.preprocess, workers, ahead)) as decoded:
            batches = group(readable(decoded), batch_size, attrgetter("pixels.shape"))
            for batch, outputs in run_batches(embedder, batches, names=needed([self.output])):
                rows = pick(outputs, [self.output])[self.output]
                for item, row in zip(batch, rows, strict=True):
                    while failed and failed[0][0] < item.position:
                        yield failed.popleft()
                    try:  # a copy, because engines reuse their buffers
                        yield item.position, self._finite(np.array(row))
                    except ImageError as error:
                        yield item.position, error
            yield from failed

    def _skip(self, index: int, error: ImageError, skipped: list[Skipped]) -> None:
        if self.on_error == "raise":
            raise type(error)(f"image number {index}: {error}") from error
        skipped.append(Skipped(index, str(error)))

    def _finite(self, row: FloatArray) -> FloatArray:
        if not np.isfinite(row).all():
            raise ImageError(f"the engine's output {self.output!r} is not finite for this image")
        return row

    def _finish(self, row: FloatArray) -> FloatArray:
        return unit_length(row)[0] if self.normalize else row

    def _shape(self) -> tuple[int, ...]:
        """The shape of a row at the input size."""
        steps = self.preprocess
        rows, columns = steps.height // steps.patch_size, steps.width // steps.patch_size
        free = {"rows": rows, "columns": columns, "height": steps.height, "width": steps.width}
        return _row_shape(self.engine, self.output, free)

    def _nan(self, shape: tuple[int, ...]) -> FloatArray:
        return np.full(shape, np.nan, np.float32)


def embed_all(
    embedder: Runner, images: Iterable[ImageInput], preprocess: Preprocess, batch_size: int
) -> dict[str, Any]:
    """All outputs of the engine, each with one row per image."""
    names, sessions = embedder.output_names, embedder.backend.parallel_runs
    rows: dict[str, list[FloatArray]] = {name: [] for name in names}
    pixels = (preprocess(open_image(as_source(image))) for image in images)
    batches = map(np.stack, batches_of_one_size(pixels, batch_size))
    if sessions == 1:
        outputs: Iterable[Outputs] = map(embedder.run, batches)
    else:
        from dinodeploy.pipeline.run_batches import run_in_order  # imports thread pools

        outputs = run_in_order(embedder.run, batches, sessions)
    for made in outputs:
        for name in names:
            rows[name].extend(made[name])
    return {name: _stack(rows[name], _row_shape(embedder.engine, name, {})) for name in names}


def _row_shape(engine: EngineChoice, output: str, free: dict[str, int]) -> tuple[int, ...]:
    """The shape of a row of `output`; `free` gives its free sides by name, 0 where it does not."""
    shapes = {
        one.name: tuple(side if isinstance(side, int) else free.get(side, 0) for side in one.shape[1:])
        for one in engine.manifest.outputs
    }
    (dim,) = shapes.get("cls", (0,))
    return {"mean_patch": (dim,), "pooled": (2 * dim,), **shapes}[output]


def _stack(rows: list[FloatArray], empty: tuple[int, ...]) -> FloatArray | list[FloatArray]:
    """[N, ...], or the list where shapes differ. empty: the shape of a row, for no rows."""
    if not rows:
        return np.empty((0, *empty), np.float32)
    return rows if any(row.shape != rows[0].shape for row in rows) else np.stack(rows)


class _Given:
    """The images of an iterable as a source: each is held from when it is read until it is decoded."""

    def __init__(self, images: Iterable[ImageInput], channels: Channels) -> None:
        self._images = images
        self._channels = channels
        self._held: dict[int, ImageInput] = {}
        self.ids = cast("Sequence[str]", _Numbers())

    def indices(self) -> Iterator[int]:
        for index, image in enumerate(self._images):
            self._held[index] = image
            yield index

    def image(self, index: int) -> Any:
        return as_source(self._held.pop(index), self._channels)

    def close(self) -> None: ...


class _Numbers:
    """The id of an image that has none: its number."""

    def __getitem__(self, index: int) -> str:
        return str(index)
