"""The model as users run it: in torch eager and compiled, in transformers, in timm (fp32); with NNCF (int8).

transformers and timm compute exact RoPE periods, where released checkpoints have them rounded to bf16. They
get the checkpoint's periods here; without them they would be a different model.

Shapes: B batch, H W input pixels, D embed_dim, R storage tokens, P patches.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinodeploy.arrays import FloatArray
from dinodeploy.backends.openvino import settings, shared_core
from dinodeploy.bench.runners import Runner
from dinodeploy.bundle.manifest import Manifest, ModelFacts
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.checkpoints import (
    Checkpoint,
    build_model,
    fetch,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.models import ViTConfig
from dinov3_ref.torchvision_shim import import_torchvision
from exporters.dialects import DIALECTS
from exporters.graph.files import write_onnx
from exporters.graph.graph import to_graph
from exporters.precision.quantization.images import Calibration, calibration_pixels
from exporters.trace.fold import make_meta_copy
from exporters.trace.trace import TokenOutputs, trace

Forward = Callable[[Tensor], Tensor]  # pixels [B,3,H,W] -> cls [B,D]; the other tokens are computed too


class TorchRunner:
    """The forward that `make` builds from a checkpoint, under `inference_mode`."""

    def __init__(
        self,
        make: Callable[[Checkpoint], tuple[str, Forward]],
        checkpoint: Checkpoint,
        preprocess: Preprocess,
        threads: int,
    ) -> None:
        self.runtime, self._forward = make(checkpoint)
        self._threads = threads

    def takes(self, height: int, width: int) -> bool:
        return True

    def run(self, pixels: FloatArray) -> Mapping[str, FloatArray]:
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            return {"cls": self._forward(torch.from_numpy(pixels)).numpy()}

    def close(self) -> None:
        self._forward = lambda pixels: pixels


def open_peer(name: str, manifest: Manifest, checkpoint: str | None, threads: int) -> Runner:
    """A peer of the bundle with this manifest, by its name in PEERS.

    Raises MisuseError for weights that are not the bundle's, UnavailableError where its library is missing.
    """
    weights = checkpoint_of(manifest.model, checkpoint)
    try:
        return PEERS[name](weights, manifest.preprocess.with_dtype("float32"), threads)
    except ImportError as error:
        raise UnavailableError(
            f"--vs {name} needs {error.name}, which is not installed: pip install {name}"
        ) from error


def checkpoint_of(model: ModelFacts, given: str | None) -> Checkpoint:
    """Load `given`, or what the manifest names: random weights are drawn again, hub weights fetched.

    Raises MisuseError for a checkpoint that is not the bundle's, or one that only the user can give.
    """
    checkpoint = _load(model, given)
    if checkpoint.sha256 != model.sha256:
        raise MisuseError(
            f"{checkpoint.source} is not the checkpoint of the bundle: sha256 {checkpoint.sha256[:12]}…, the "
            f"manifest has {model.sha256[:12]}… ({model.source}); give that one with --checkpoint"
        )
    return checkpoint


def _load(model: ModelFacts, given: str | None) -> Checkpoint:
    periods = model.rope_periods or "bf16"  # a ConvNeXt has no RoPE
    if given is not None:
        arch = None if model.arch == "custom" else model.arch
        return load_checkpoint(given, arch=arch, periods=periods, weights_key=model.weights_key)
    if model.weights == "random" and model.arch != "custom":
        # random:vit_small:seed3
        return random_checkpoint(model.arch, int(model.source.rpartition("seed")[2]))
    if model.weights == "hub":
        fetched = fetch(model.arch, dataset=model.dataset, revision=model.source.rpartition("@")[2])
        return load_checkpoint(fetched, arch=model.arch, periods=periods)
    raise MisuseError(
        f"peers in torch need the checkpoint of the bundle ({model.source}); give it with --checkpoint FILE"
    )


def _in_torch(checkpoint: Checkpoint, compiled: bool = False) -> tuple[str, Forward]:
    module: Any = TokenOutputs(build_model(checkpoint).eval())
    if compiled:
        module = torch.compile(module, dynamic=False)
    return f"torch {torch.__version__}{' compiled' if compiled else ''}", lambda pixels: module(pixels)[0]


def _in_transformers(checkpoint: Checkpoint) -> tuple[str, Forward]:
    import_torchvision()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    vit = isinstance(checkpoint.config, ViTConfig)
    with tempfile.TemporaryDirectory(prefix="dinodeploy_") as folder:
        save_checkpoint(checkpoint, "hf", Path(folder) / "hf")
        how: dict[str, Any] = {"attn_implementation": "sdpa"} if vit else {}
        model: Any = transformers.AutoModel.from_pretrained(Path(folder) / "hf", **how)
    model = model.float().eval()
    if vit:
        model.rope_embeddings.inv_freq.copy_(1 / checkpoint.state["rope_embed.periods"])
    return f"transformers {transformers.__version__}", lambda pixels: model(pixels).last_hidden_state[:, 0]


def _in_timm(checkpoint: Checkpoint) -> tuple[str, Forward]:
    import_torchvision()
    import timm

    vit = isinstance(checkpoint.config, ViTConfig)
    with tempfile.TemporaryDirectory(prefix="dinodeploy_") as folder:
        save_checkpoint(checkpoint, "timm", Path(folder) / "timm")
        how: dict[str, Any] = {"dynamic_img_size": True} if vit else {}
        model: Any = timm.create_model(f"local-dir:{Path(folder) / 'timm'}", pretrained=True, **how)
    model = model.float().eval()
    name = f"timm {timm.__version__}"
    if not vit:
        return name, model  # its pooled and normalised features
    model.rope.periods.copy_(checkpoint.state["rope_embed.periods"])
    return name, lambda pixels: model.forward_features(pixels)[:, 0]


class NncfRunner:
    """OpenVINO's int8: NNCF quantises the fp32 graph, OpenVINO compiles it for each input shape.

    NNCF calibrates on the default images of `export --int8`. Unlike our engines, OpenVINO compiles one model
    per shape here, so the numbers of an image depend on its batch. Raises ImportError or UnavailableError.
    """

    def __init__(self, checkpoint: Checkpoint, preprocess: Preprocess, threads: int) -> None:
        self._core = shared_core()
        import nncf

        nncf.set_log_level(logging.ERROR)
        images, _ = calibration_pixels(Calibration(), preprocess)
        with tempfile.TemporaryDirectory(prefix="dinodeploy_") as folder, redirect_stdout(io.StringIO()):
            path = Path(folder) / "model.onnx"
            write_graph(checkpoint, path)
            self._model = nncf.quantize(
                self._core.read_model(path),
                nncf.Dataset([image[None] for image in images]),
                model_type=nncf.ModelType.TRANSFORMER if isinstance(checkpoint.config, ViTConfig) else None,
                subset_size=len(images),
            )
        runtime, self._settings = settings("int8", threads)
        self.runtime = f"nncf {nncf.__version__}, {runtime}"
        self._compiled: dict[tuple[int, ...], Any] = {}

    def takes(self, height: int, width: int) -> bool:
        return True

    def run(self, pixels: FloatArray) -> Mapping[str, FloatArray]:
        if pixels.shape not in self._compiled:
            model = self._model.clone()
            model.reshape(list(pixels.shape))
            self._compiled[pixels.shape] = self._core.compile_model(model, "CPU", self._settings)
        values = self._compiled[pixels.shape](pixels)
        return {output.get_any_name(): value for output, value in values.items()}

    def close(self) -> None:
        self._compiled.clear()


def write_graph(checkpoint: Checkpoint, path: Path) -> None:
    """Write the checkpoint as an fp32 graph, without a parity check: the input of NNCF."""
    meta_copy, weights = make_meta_copy(build_model(checkpoint))
    module = TokenOutputs(meta_copy)
    write_onnx(to_graph(trace(module), module, weights, DIALECTS["portable"]), path)


PEERS: dict[str, Callable[[Checkpoint, Preprocess, int], Runner]] = {  # the last is the number of threads
    "torch": partial(TorchRunner, _in_torch),
    "compile": partial(TorchRunner, partial(_in_torch, compiled=True)),
    "transformers": partial(TorchRunner, _in_transformers),
    "timm": partial(TorchRunner, _in_timm),
    "nncf": NncfRunner,
}
