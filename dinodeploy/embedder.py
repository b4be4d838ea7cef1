"""`Embedder`: a verified engine that turns images into embeddings.

    from dinodeploy import Embedder

    with Embedder.open("bundle") as embedder:
        vector = embedder.encode("cat.jpg")                   # float32 [D]
        vectors = embedder.encode(["cat.jpg", "dog.jpg"])     # float32 [2, D]

Shapes: B batch, N images, H W input pixels, h w patch grid, R storage tokens, D embed_dim.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import Backend, Hint
from dinodeploy.backends.run import Arrays, Names, Outputs, To, run_pixels
from dinodeploy.backends.select import candidates, open_on
from dinodeploy.bundle.bundle import Bundle, EngineChoice, locate
from dinodeploy.bundle.manifest import Manifest
from dinodeploy.errors import JudgementError, MisuseError
from dinodeploy.images.inputs import Channels, ImageInput, is_one_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.receipts import Receipt, find_receipt, make_receipt, save_receipt
from dinodeploy.pipeline.runner import BATCH_SIZE, OnError, Skipped

if TYPE_CHECKING:
    from dinodeploy.parity.measurement import Verdict
    from dinodeploy.pipeline.encode import Encoding
    from dinodeploy.text.encoder import TextEncoder

Vector = Literal["cls", "mean_patch", "pooled", "storage", "image_embedding"]  # one shape for all images


class Embedder:
    """An opened bundle. Use `Embedder.open`; close it, or use it in a `with`.

    `encode`, `stream`, `embed` and `run` may be called from several threads; call `close` when none is
    running. Between calls its only threads are the runtime's. It does not survive a fork: open one in each
    process. It can be pickled: unpickling opens the bundle's path again, with the same options.
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
        self.passed_over = passed_over  # why a preferred engine does not run here
        self.not_judged: tuple[str, ...] = ()  # sizes of golden cases that the engine was not built for
        self._asked: tuple[str, ...] | None = None  # the outputs named in `open`
        self._closed = False
        self._reopen: partial[Embedder] | None = None  # `open_located` with the options of this embedder
        self._cls_only: Embedder | None = None
        self._text: TextEncoder | None = None
        self._lock = threading.Lock()
        self._last = threading.local()

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
        require_signature: str | Path | None = None,
    ) -> Embedder:
        """Open a bundle, an engine file inside one, or hf://ORG/NAME, and verify that it may be used.

        device: auto, cpu, onnxruntime, openvino, cuda or tensorrt (`backends/select.py`); auto takes the best
            that runs here.
        outputs: the engine outputs you will use, and `run` gives; default: all. ("cls",) loads the CLS-only
            graph on a CPU.
        allow_unverified: skip the judge. Otherwise, without a passing receipt for this engine, runtime and
            device, the judge runs now, which takes seconds.
        threads: of the engine on a CPU. hint: "latency" uses all of them for one batch, "throughput" runs one
            batch per thread: `encode` and `embed` then run batches in parallel, `run` when it is called from
            `backend.parallel_runs` threads. The numbers are the same. A GPU ignores both.
        weight_budget: bytes of weights that a weight-streaming TensorRT plan keeps on the GPU.
        require_signature: a public key file; nothing is read unless the whole bundle is signed with it, and
            what is read is a private copy, made while the signature was verified. parity.json is not signed,
            so only receipts in this user's cache count.

        Every file is hashed before it is read. Raises MisuseError for a path that does not exist, BundleError
        or TamperedError for a bundle that is not what was exported, JudgementError when the judge rejects it,
        UnavailableError when this machine cannot run it, HubError for the Hugging Face hub.
        """
        bundle, file = locate(engine, require_signature=require_signature)
        return cls.open_located(
            bundle,
            file,
            device=device,
            outputs=outputs,
            allow_unverified=allow_unverified,
            threads=threads,
            hint=hint,
            weight_budget=weight_budget,
        )

    @classmethod
    def open_located(
        cls,
        bundle: Bundle,
        file: str | None,
        *,
        device: str = "auto",
        outputs: Sequence[str] | None = None,
        allow_unverified: bool = False,
        **engine_options: Any,
    ) -> Embedder:
        """Open an engine of a bundle that `locate` has found; options, checks and errors as in `open`."""
        choice, backend, passed_over = open_on(bundle, device, outputs, file=file, **engine_options)
        embedder = cls(choice, backend, None, passed_over)
        if outputs is not None:
            embedder._asked = tuple(name for name in choice.outputs if name in outputs)
        options: dict[str, Any] = {"device": device, "outputs": outputs, **engine_options}
        options["allow_unverified"] = allow_unverified
        embedder._reopen = partial(cls.open_located, bundle, file, **options)
        if allow_unverified:
            return embedder
        embedder.receipt = find_receipt(embedder.engine, embedder.backend.runtime, embedder.backend.device)
        if embedder.receipt is None:
            from dinodeploy.parity.judge import rejection

            try:
                verdict = embedder.check()
                if not verdict.passed:
                    raise JudgementError(rejection(embedder.engine, verdict))
            except BaseException:
                embedder.close()
                raise
        return embedder

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
        """Which engine runs where, and why no better one does, in one line."""
        parts = [f"{self.engine.label} on {self.backend.device}, {self.backend.runtime}"]
        if self.backend.parallel_runs > 1 and self.backend.device.startswith("cpu"):
            parts.append(f"{self.backend.parallel_runs} batches in parallel")
        if self.not_judged:
            parts.append(f"not judged at {', '.join(self.not_judged)}, which it was not built for")
        if self.passed_over:
            parts.append(f"passed over: {'; '.join(self.passed_over)}")
        return "; ".join(parts)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs that `run` gives: those named in `open`, by default all of the engine."""
        return self.engine.outputs if self._asked is None else self._asked

    @property
    def skipped(self) -> list[Skipped]:
        """Images without an embedding, of this thread's last `encode` or `stream` that may skip images."""
        return list(getattr(self._last, "skipped", ()))

    @overload
    def encode(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        output: Vector = "cls",
        normalize: bool = False,
        imgsz: int | tuple[int, int] | None = None,
        channels: Channels = "rgb",
        batch_size: int = BATCH_SIZE,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> FloatArray: ...
    @overload
    def encode(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        output: str,
        normalize: bool = False,
        imgsz: int | tuple[int, int] | None = None,
        channels: Channels = "rgb",
        batch_size: int = BATCH_SIZE,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> FloatArray | list[FloatArray]: ...
    def encode(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        output: str = "cls",
        normalize: bool = False,
        imgsz: int | tuple[int, int] | None = None,
        channels: Channels = "rgb",
        batch_size: int = BATCH_SIZE,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> FloatArray | list[FloatArray]:
        """One output of one image or of many: float32 [D], or [N, D] in the order of the images.

        images: a path, URL, bytes, binary file object, Pillow image or uint8 array [H,W,3 | 4] or [H,W]; or
            any iterable of these, such as a list, a generator or an array [N,H,W,3]. A list of one gives [1,
            D], an empty list [0, D].
        output: cls [D], mean_patch [D], pooled [2D] (cls and mean_patch), storage [R,D], patch or layer_<i>
            [h,w,D], or an output of a head. Only this output is computed and kept. With a keep-aspect preset,
            `patch` of images of different shapes is a list of arrays.
        normalize: divide each vector (the last axis) by its length; a vector of zeros stays.
        imgsz: input size in pixels, H or (H, W); default: the bundle's.
        channels: order of the channels in arrays; "bgr" for OpenCV frames.
        on_error: for images that cannot be read, or whose embedding is not finite. "raise": ImageError for
            the first. "skip": no row; a warning and `skipped` tell which. "nan": a row of NaN, and `skipped`
            tells which.
        progress: show a progress bar on stderr.

        On a CPU, an embedder opened without `outputs` loads the CLS-only graph, beside the one with all
        outputs, when CLS is first asked for. Open it with outputs=("cls",) to load only that. The numbers are
        the same as those of `dinodeploy.embed` with the same outputs. Raises MisuseError for an unknown
        output or option.
        """
        how = self._encoding(imgsz, output, normalize, channels, batch_size, on_error)
        skipped = self._last.skipped = list[Skipped]()
        engine = self._engine_for(output)
        if is_one_image(images):
            return how.encode_one(engine, images, skipped)
        return how.encode_all(engine, cast(Iterable[ImageInput], images), skipped, progress=progress)

    def stream(
        self,
        images: Iterable[ImageInput],
        *,
        output: str = "cls",
        normalize: bool = False,
        imgsz: int | tuple[int, int] | None = None,
        channels: Channels = "rgb",
        batch_size: int = BATCH_SIZE,
        on_error: OnError = "raise",
    ) -> Iterator[tuple[int, FloatArray]]:
        """(index, row) of each image, in order, for iterables of any length: memory does not grow with it.

        Images are read ahead: up to two batches, or two per decoding thread. Options as in `encode`; with
        on_error="skip" the index of an unreadable image is left out.
        """
        how = self._encoding(imgsz, output, normalize, channels, batch_size, on_error)
        if is_one_image(images):
            raise MisuseError("stream wants an iterable of images; for one image use encode")
        skipped = self._last.skipped = list[Skipped]()
        return how.stream(self._engine_for(output), images, skipped)

    def _encoding(self, imgsz: int | tuple[int, int] | None, *options: Any) -> Encoding:
        from dinodeploy.pipeline.encode import Encoding  # not needed by `run` and `embed`

        self._check_open()
        return Encoding(self.engine, self.preprocess_for(imgsz), *options)

    def _engine_for(self, output: str) -> Embedder:
        """This embedder; for CLS the embedder of the CLS-only graph, if the same backend has one."""
        if output != "cls" or self._reopen is None or self._reopen.keywords["outputs"] is not None:
            return self
        with self._lock:
            if self._cls_only is None:
                bundle, file = self._reopen.args
                choices = candidates(bundle, self._reopen.keywords["device"], ("cls",), file=file)
                has_graph = any(
                    choice.outputs == ("cls",) and choice.backend == self.engine.backend for choice in choices
                )
                self._cls_only = self._reopen(outputs=("cls",)) if has_graph else self
        return self._cls_only

    def encode_text(self, texts: str | Iterable[str], *, normalize: bool = False) -> FloatArray:
        """Texts -> float32 [T,E], to compare with `image_embedding`; one str -> [E]. For dino.txt bundles.

        The first call opens the text graph and raises as `open`; MisuseError for a bundle without one.
        """
        from dinodeploy.text.encoder import open_beside  # not needed for images

        self._check_open()
        with self._lock:
            self._text = self._text or open_beside(self.bundle, self._reopen)
        return self._text.encode(texts, normalize=normalize)

    @overload
    def run(self, pixels: Any, *, outputs: Names = None, stream: int | None = None) -> Arrays: ...
    @overload
    def run(self, pixels: Any, *, outputs: Names = None, to: To, stream: int | None = None) -> Outputs: ...
    def run(self, pixels: Any, *, outputs: Names = None, to: To = "host", stream: int | None = None) -> Any:
        """Normalised pixels [B,3,H,W] -> {"cls": [B,D], "storage": [B,R,D], "patch": [B,h,w,D]}, float32.

        `storage` exists if the model has such tokens, `layer_<i>` if the bundle was exported with them, and
        the outputs of a head (`logits` [B,K], `segmentation` [B,K,H,W], `depth` [B,1,H,W] …) if it has one.
        outputs: the names to give; default: `output_names`. Others are not copied from a GPU. Pixels may be a
        numpy array or any array in CPU memory with DLPack, not copied. A bundle exported with
        `input="uint8"` takes bytes [B,H,W,3], or normalised pixels that are grey levels. An engine on a GPU
        also takes contiguous arrays of its memory (DLPack, __cuda_array_interface__). to: "host" gives numpy
        arrays, "device" leaves outputs on a GPU as `GpuArray` (docs/tensorrt.md). stream: the handle of the
        caller's CUDA stream, to make pixels and use outputs on; the call then waits for nothing. Raises
        MisuseError for another shape, dtype or device, a size that is not a multiple of the patch size, an
        output that the engine lacks, and after `close`.
        """
        self._check_open()
        names = self.output_names if outputs is None else tuple(dict.fromkeys(outputs))
        return run_pixels(self.engine, self.backend, pixels, names, to, stream)

    def warm_up(self, *sizes: int | tuple[int, int], batch_size: int = 1) -> None:
        """Run zeros at each input size, H or (H, W); default: the bundle's.

        Engines allocate memory, choose kernels or build for a size when they first see it. Raises as `run`.
        """
        for size in sizes or (None,):
            self.run(self.preprocess_for(size).blank(batch_size))

    def embed(
        self,
        images: Iterable[ImageInput],
        *,
        imgsz: int | tuple[int, int] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> dict[str, Any]:
        """All outputs of `run` for images (as in `encode`), one row per image. Use `encode` for one output.

        imgsz: input size, H or (H, W); default: the bundle's. Images whose inputs differ in size give a list
            of [h,w,D] for `patch`. No images give empty arrays. Raises ImageError for an image that cannot be
            read, MisuseError for an impossible size.
        """
        from dinodeploy.pipeline.encode import embed_all

        return embed_all(self, images, self.preprocess_for(imgsz), batch_size)

    def preprocess_for(self, imgsz: int | tuple[int, int] | None) -> Preprocess:
        """The bundle's preprocessing, at another input size if one is given."""
        if imgsz is None:
            return self.preprocess
        height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        return self.preprocess.with_size(height, width)

    def check(self) -> Verdict:
        """Run the judge on this engine now, and save the receipt.

        Golden cases of a size that the engine was not built for are left out. Raises OutsideProfileError when
        no case is left.
        """
        from dinodeploy.parity.judge import judge_engine  # not needed where a receipt holds

        run = partial(self.run, outputs=self.engine.outputs)
        verdict, self.not_judged = judge_engine(self.engine, run, self.backend.takes)
        self.receipt = make_receipt(self.engine, self.backend.runtime, self.backend.device, verdict)
        save_receipt(self.bundle, self.receipt)
        return verdict

    def close(self) -> None:
        """Release the engine, when no call is running. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self.backend.close()
            for beside in (self._cls_only, self._text):
                if beside is not None and beside is not self:
                    beside.close()

    def _check_open(self) -> None:
        if self._closed:
            raise MisuseError("the embedder is closed; open it again")

    def __repr__(self) -> str:
        model = f"{self.manifest.model.arch} {self.manifest.graph.recipe}"
        what = f"outputs {', '.join(self.output_names)}{', closed' if self._closed else ''}"
        return f"<Embedder {self.bundle.named}: {model} on {self.backend.device}, {what}>"

    def __reduce__(self) -> tuple[Callable[..., Embedder], tuple[()]]:
        if self._reopen is None:
            raise TypeError("only an embedder from Embedder.open can be pickled")
        self._check_open()
        bundle, file = self._reopen.args
        key = None if bundle.signed is None else bundle.signed.key
        place = bundle.address(file)
        return partial(Embedder.open, place, require_signature=key, **self._reopen.keywords), ()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
