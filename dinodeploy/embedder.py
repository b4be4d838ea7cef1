"""`Embedder`: a proven engine that turns pictures into embeddings. The library's front door.

    from dinodeploy import Embedder

    with Embedder.open("bundle") as embedder:
        vectors = embedder.embed(["cat.jpg", "dog.jpg"])["cls"]   # float32 [2, D]

Shapes: B batch, N pictures, H W input pixels, h w patch grid, R storage tokens, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from dinodeploy.arrays import ByteArray, FloatArray
from dinodeploy.backends import Backend, Hint
from dinodeploy.backends.select import open_on
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, EngineChoice, locate, open_bundle
from dinodeploy.bundle.manifest import Manifest
from dinodeploy.errors import JudgementError, MisuseError, OutsideProfileError
from dinodeploy.images.arrays import as_pixels
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase, at_size, load_golden
from dinodeploy.parity.judge import Run, Verdict, judge
from dinodeploy.parity.receipts import Receipt, find_receipt, make_receipt, save_receipt

Item = TypeVar("Item")
Picture = str | Path | Image.Image | ByteArray

BATCH_SIZE = 8


class Embedder:
    """An opened bundle. Use `Embedder.open`; close it, or use it in a `with`.

    `run` and `embed` may be called from several threads at once; `close` when none of them is under way.
    Between calls its only threads are its runtime's. It does not survive a fork: open one in each process.
    """

    def __init__(
        self,
        engine: EngineChoice,
        backend: Backend,
        receipt: Receipt | None,
        passed_over: tuple[str, ...] = (),
    ) -> None:
        self.engine = engine
        self.backend = backend
        self.receipt = receipt
        self.passed_over = passed_over  # why no better engine runs
        self._closed = False
        self.not_judged: tuple[str, ...] = ()  # sizes of golden cases that the engine was not built for

    @classmethod
    def open(
        cls,
        engine: str | Path,
        *,
        device: str = "auto",
        outputs: Sequence[str] | None = None,
        allow_unverified: bool = False,
        threads: int | None = None,
        hint: Hint = "latency",
        weight_budget: int | None = None,
        require_signature: Path | None = None,
    ) -> Embedder:
        """Open a bundle, or an engine file inside one, and make sure that it may be used.

        `device` is auto, cpu, onnxruntime, openvino, cuda or tensorrt (`devices.py`); auto takes the best
        that can run here. `outputs` is what you will use, everything by default: for ("cls",) a CPU leaves
        out what only the other tokens need of the last block.
        `hint`: on a CPU all `threads` work on one run, which is over soonest, or each has a run of its own
        ("throughput"): `embed` does so by itself, `run` when it is called from `backend.lanes` threads at
        once. The numbers are the same, and a GPU takes no notice.
        Every file it reads is hashed first. Without a passing receipt for this runtime and device the
        judge runs now, which takes seconds; `allow_unverified` skips that. `weight_budget` is what a
        weight-streaming plan may keep of its weights on the GPU, in bytes. `require_signature` is a public
        key, without whose signature over the whole bundle nothing is read (`signing.py`).
        Raises MisuseError for a path that is not there, BundleError or TamperedError for a bundle that is
        not what was exported, JudgementError when the judge rejects it, UnavailableError when this
        machine cannot run it.
        """
        require(engine, require_signature)
        embedder = cls._open_unjudged(
            engine, device, outputs, threads=threads, hint=hint, weight_budget=weight_budget
        )
        if allow_unverified:
            return embedder
        embedder.receipt = find_receipt(embedder.engine, embedder.backend.runtime, embedder.backend.device)
        if embedder.receipt is None:
            try:
                verdict = embedder.check()
                if not verdict.passed:
                    raise JudgementError(rejection(embedder.engine, verdict))
            except BaseException:
                embedder.close()
                raise
        return embedder

    @classmethod
    def _open_unjudged(
        cls, engine: str | Path, device: str, outputs: Sequence[str] | None = None, **options: Any
    ) -> Embedder:
        bundle, file = locate(engine)
        choice, backend, passed_over = open_on(bundle, device, outputs, file=file, **options)
        return cls(choice, backend, None, passed_over)

    @property
    def bundle(self) -> Bundle:
        return self.engine.bundle

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def preprocess(self) -> Preprocess:
        return self.manifest.preprocess

    @property
    def choice(self) -> str:
        """What runs where, and why nothing better does: one line for people."""
        parts = [f"{self.engine.file} on {self.backend.device}, {self.backend.runtime}"]
        if self.backend.lanes > 1 and self.backend.device.startswith("cpu"):
            parts.append(f"{self.backend.lanes} batches at once")
        if self.not_judged:
            parts.append(f"not judged at {', '.join(self.not_judged)}, which it was not built for")
        if self.passed_over:
            parts.append(f"passed over: {'; '.join(self.passed_over)}")
        return "; ".join(parts)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the opened engine puts out."""
        return self.engine.outputs

    def run(self, pixels: Any) -> dict[str, FloatArray]:
        """Normalised pixels [B,3,H,W] -> {"cls": [B,D], "storage": [B,R,D], "patch": [B,h,w,D]}, float32.

        `storage` is there if the model has such tokens, `layer_<i>` if it was exported with them, a head's
        outputs (`logits` [B,K], `segmentation` [B,K,H,W], `depth` [B,1,H,W] …) if there is a head. An engine
        opened for CLS alone gives `cls`. Pixels may be numpy's or anything that speaks DLPack in the
        processor's memory (`pixels.py`): no copy is made.
        Raises MisuseError for another shape or dtype, a size that is no multiple of the patch size, and
        after `close`.
        """
        array = as_pixels(pixels, self.manifest.model.patch_size)
        if self._closed:
            raise MisuseError("the embedder is closed; open it again")
        return self.backend.run(array)

    def warm_up(self, *sizes: int | tuple[int, int], batch_size: int = 1) -> None:
        """Run nothing of use at each input size, H or (H, W); the bundle's own by default.

        Engines take memory, choose kernels or build for a size when they first meet it. Raises as `run`.
        """
        for size in sizes or (None,):
            steps = self.preprocess_for(size)
            self.run(np.zeros((batch_size, 3, steps.height, steps.width), np.float32))

    def embed(
        self,
        images: Iterable[Picture],
        *,
        imgsz: int | tuple[int, int] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> dict[str, Any]:
        """Pictures (paths, PIL images, HWC uint8 arrays) -> the same outputs as `run`, one row a picture.

        `imgsz` is the input size, H or (H, W); the bundle's own by default. Pictures that end up with
        different sizes (keep-aspect) give a list of [h,w,D] for `patch`. Raises ImageError for one that
        cannot be read, MisuseError for an impossible size; no pictures at all give empty arrays.
        """
        preprocess = self.preprocess_for(imgsz)
        rows: dict[str, list[FloatArray]] = {name: [] for name in self.output_names}
        pixels = (preprocess(open_image(image)) for image in images)
        for outputs in self._run_each(map(np.stack, batches_of_one_size(pixels, batch_size))):
            for name, output in outputs.items():
                rows[name].extend(output)
        return {name: _stack(name, rows[name], self.manifest) for name in self.output_names}

    def _run_each(self, batches: Iterable[FloatArray]) -> Iterator[dict[str, FloatArray]]:
        if self.backend.lanes == 1:
            return map(self.run, batches)
        from dinodeploy.backends.ordered import (
            run_in_order,  # a first embedding need not wait for a pool's import
        )

        return run_in_order(self.run, batches, self.backend.lanes)

    def preprocess_for(self, imgsz: int | tuple[int, int] | None) -> Preprocess:
        """The bundle's preprocessing, at another input size when one is given."""
        if imgsz is None:
            return self.preprocess
        height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        return self.preprocess.with_size(height, width)

    def check(self) -> Verdict:
        """Judge this engine here and now, and keep the receipt.

        Golden cases of a size that the engine was not built for are left out. Raises OutsideProfileError
        when none remains.
        """
        verdict = judge_golden(self._golden_cases(), self.run, self.manifest)
        self.receipt = make_receipt(self.engine, self.backend.runtime, self.backend.device, verdict)
        save_receipt(self.bundle, self.receipt)
        return verdict

    def _golden_cases(self) -> list[GoldenCase]:
        cases = [case.only(self.output_names) for case in load_golden(self.bundle.root / GOLDEN_FILE)]
        fitting = [case for case in cases if self.backend.takes(*case.size)]
        others = dict.fromkeys(case.size for case in cases if not self.backend.takes(*case.size))
        self.not_judged = tuple(f"{height}x{width}" for height, width in others)
        if not fitting:
            sizes = ", ".join(self.not_judged)
            raise OutsideProfileError(
                f"{self.engine.path} takes none of the sizes it could be judged at, {sizes}; "
                f"build it for at least one of them: dinodeploy build {self.bundle.root} --imgsz …"
            )
        return fitting

    def close(self) -> None:
        """Give back what the engine holds, once no call is under way. Twice does no harm."""
        if not self._closed:
            self._closed = True
            self.backend.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def judge_golden(cases: Sequence[GoldenCase], run: Run, manifest: Manifest) -> Verdict:
    """Judge `run` on golden cases with the runtime's own preprocessing and the manifest's recipe."""
    head = manifest.head
    return judge(
        cases,
        prepare=lambda image, size: at_size(manifest.preprocess, size)(open_image(image)),
        run=run,
        preprocess=manifest.preprocess,
        recipe=manifest.graph.recipe,
        head=dict.fromkeys(head.outputs, head.scores_classes) if head is not None else None,
    )


def check_bundle(
    engine: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    weight_budget: int | None = None,
    require_signature: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[EngineChoice, Receipt, Verdict]:
    """Judge a bundle on this machine, whatever receipts it has; `say` is told what runs where.

    Raises as `Embedder.open` otherwise.
    """
    require(engine, require_signature)
    with Embedder._open_unjudged(engine, device, threads=threads, weight_budget=weight_budget) as embedder:
        embedder.bundle.verify()
        verdict = embedder.check()
        say(embedder.choice)
        assert embedder.receipt is not None
        return embedder.engine, embedder.receipt, verdict


def require(engine: str | Path, key: Path | None) -> None:
    """Hold the bundle against its signature, where a public key asks for one. Raises TamperedError."""
    if key is not None:
        from dinodeploy.bundle.signing import verify_signature

        verify_signature(open_bundle(engine).root, key)


def rejection(engine: EngineChoice, verdict: Verdict) -> str:
    """One line on why an engine may not be used."""
    first = verdict.failures[0]
    detail = first.note or f"{first.metric} is {first.value:.3g}, wanted {first.limit:.3g}"
    more = len(verdict.failures) - 1
    return (
        f"{engine.path} is not the model here: {first.output} of case {first.case!r}: {detail}"
        + (f" (and {more} more)" if more else "")
        + f"; see: dinodeploy check {engine.root}"
    )


def batches_of_one_size(
    items: Iterable[Item],
    batch_size: int,
    shape: Callable[[Item], Any] = np.shape,  # type: ignore[assignment]
) -> Iterator[list[Item]]:
    """Group consecutive items of equal `shape`, at most `batch_size` together, order kept."""
    if batch_size < 1:
        raise MisuseError(f"batch size is {batch_size}; wanted at least 1")
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == batch_size or shape(item) != shape(batch[0])):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _stack(name: str, rows: list[FloatArray], manifest: Manifest) -> FloatArray | list[FloatArray]:
    if not rows:
        shape = next(output.shape for output in manifest.outputs if output.name == name)
        return np.empty((0, *(size if isinstance(size, int) else 0 for size in shape[1:])), np.float32)
    if any(row.shape != rows[0].shape for row in islice(rows, 1, None)):
        return rows
    return np.stack(rows)
