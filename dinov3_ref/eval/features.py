"""Extract features of a labelled dataset with a frozen model (docs/spec.md 5.1, 5.2).

Every evaluation reads its model through `Frozen`, so it runs on a checkpoint (`FrozenModel`) and on
an exported engine (`engine.py`) alike.

Shapes: B batch, N images, S side, D embed_dim, n number of last blocks, W ranks, h w patch grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dinov3_ref.checkpoints import load_checkpoint
from dinov3_ref.checkpoints.load import build_model
from dinov3_ref.checkpoints.sidecars import normalization
from dinov3_ref.data.datasets import EncodedImages
from dinov3_ref.data.sample import BrokenImages, Sample, SeededSamples
from dinov3_ref.distributed import get_rank, get_world_size
from dinov3_ref.errors import DataError
from dinov3_ref.eval.labelled import Labelled
from dinov3_ref.heads.head import named_outputs
from dinov3_ref.models import Backbone, ConvNeXt, stride_of

AUTOCAST = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Frozen(Protocol):
    """What an evaluation needs of a model. Nothing is trained through it."""

    @property
    def device(self) -> torch.device:
        """Where heads are trained."""

    @property
    def mean(self) -> Sequence[float]: ...

    @property
    def std(self) -> Sequence[float]: ...

    @property
    def stride(self) -> int:
        """Pixels per patch; input sizes are multiples of it."""

    @property
    def n_blocks(self) -> int: ...

    @property
    def embed_dim(self) -> int: ...

    @property
    def sha256(self) -> str:
        """Of the checkpoint; a head remembers it. "" where unknown."""

    @property
    def same_width(self) -> bool:
        """Whether all blocks have the width of the last; the stages of a ConvNeXt do not."""

    def outputs(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Images [B,3,H,W] -> the named outputs (`heads/head.py` lists them), fp32, on any device."""


@dataclass(frozen=True)
class FrozenModel:
    """A model in eval mode on its device, and the normalisation of its images."""

    model: Backbone
    device: torch.device
    mean: Sequence[float]
    std: Sequence[float]
    dtype: torch.dtype | None = None  # of autocast
    sha256: str = ""

    @classmethod
    def load(cls, weights: str | Path, device: str | None = None, autocast: str = "none") -> FrozenModel:
        """Load a checkpoint in any layout. Raises `CheckpointError`."""
        checkpoint = load_checkpoint(weights)
        mean, std = normalization(checkpoint)
        chosen = choose_device(device)
        model = build_model(checkpoint).to(chosen)
        return cls(model, chosen, mean, std, AUTOCAST[autocast], checkpoint.sha256)

    @property
    def stride(self) -> int:
        return stride_of(self.model)

    @property
    def n_blocks(self) -> int:
        return self.model.n_blocks

    @property
    def embed_dim(self) -> int:
        return self.model.embed_dim

    @property
    def same_width(self) -> bool:
        return not isinstance(self.model, ConvNeXt)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that the model runs in."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()

    def outputs(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The named outputs of the model. Raises `ConfigError` for a block that it does not have."""
        with torch.no_grad(), self.autocast():
            found = named_outputs(self.model, images.to(self.device), names)
        return {name: tensor.float() for name, tensor in found.items()}


Read = Callable[[Frozen, Tensor], Tensor]


def choose_device(name: str | None) -> torch.device:
    """The named device; None: CUDA if available. Raises `DataError` for an unusable device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no single error for it
        raise DataError(
            f"device {name!r} cannot be used; wanted cpu, or cuda on a machine with a GPU"
        ) from error
    return device


def cls_features(frozen: Frozen, images: Tensor) -> Tensor:
    """Images [B,3,S,S] -> normed CLS, fp32 [B,D], the features of kNN and of logistic regression."""
    return frozen.outputs(images, ["cls"])["cls"]


def probe_names(frozen: Frozen, n: int) -> list[str]:
    """The outputs that a linear probe on the last n blocks reads: n CLS tokens, then the last patch map.

    Raises `DataError` for more blocks than the model has, or than the last stage of a ConvNeXt.
    """
    if n > frozen.n_blocks:
        raise DataError(f"--last-blocks {n} of a model with {frozen.n_blocks} blocks; use fewer")
    if n > 1 and not frozen.same_width:
        raise DataError(f"the last {n} stages of a ConvNeXt differ in width; wanted --last-blocks 1")
    return [*(f"cls_{frozen.n_blocks - back}" for back in range(n, 1, -1)), "cls", "patch"]


def probe_input(outputs: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """CLS tokens [B,D] and the last patch map [B,h,w,D], in the order of `names` -> fp32 [B,(n+1)D]."""
    tokens = [outputs[name] for name in names]
    return torch.cat([x if x.dim() == 2 else x.mean(dim=(1, 2)) for x in tokens], dim=-1).float()


def extract(
    frozen: Frozen,
    dataset: EncodedImages,
    source: str,
    *,
    read: Read = cls_features,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Labelled:
    """Features of a labelled dataset without broken images; in a process group, of this rank's share.

    Raises `DataError` for too many broken images.
    """
    features, labels = [], []
    done = 0
    for images, targets in labelled_batches(dataset, batch_size=batch_size, num_workers=num_workers):
        features.append(read(frozen, images).cpu())
        labels.append(targets)
        done += len(targets)
        progress(f"{source}: {done} of {len(range(get_rank(), len(dataset), get_world_size()))} images")
    if not features:
        raise DataError(f"'{source}' has no readable image")
    return Labelled(torch.cat(features), torch.cat(labels), dataset.class_names, source)


def labelled_batches(
    dataset: EncodedImages, *, batch_size: int, num_workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images [B,3,S,S], labels [B]) in order without broken images; in a process group, every W-th image.

    Raises `DataError` for too many broken images.
    """
    account = BrokenImages()
    loader: DataLoader[Any] = DataLoader(
        SeededSamples(dataset, tries=1),
        batch_size=batch_size,
        sampler=range(get_rank(), len(dataset), get_world_size()),
        num_workers=num_workers,
        collate_fn=collate_labelled,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),  # keeps worker start from using the global generator
    )
    for batch in loader:
        account.record(batch["drawn"], batch["broken"])
        if "images" in batch:
            yield batch["images"], batch["labels"]


def collate_labelled(samples: Sequence[Sample]) -> dict[str, Any]:
    """`images` [B,3,S,S] and `labels` long [B] of readable samples; `broken` and `drawn` count the rest."""
    read = [sample for sample in samples if sample.views is not None]
    account = {"drawn": len(samples), "broken": [line for sample in samples for line in sample.broken]}
    if not read:
        return account
    images = torch.stack([sample.views for sample in read])
    return account | {"images": images, "labels": torch.tensor([sample.target for sample in read])}
