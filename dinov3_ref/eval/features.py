"""Extract features of a labelled dataset with a frozen model (docs/spec.md 5.1, 5.2).

Shapes: B batch, N images, S side, D embed_dim, n number of last blocks, W ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from dinov3_ref.models import Backbone, ConvNeXt

AUTOCAST = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Read = Callable[["FrozenModel", Tensor], Tensor]


@dataclass(frozen=True)
class FrozenModel:
    """A model in eval mode on its device, and the normalisation of its images."""

    model: Backbone
    device: torch.device
    mean: Sequence[float]
    std: Sequence[float]
    dtype: torch.dtype | None = None  # of autocast

    @classmethod
    def load(cls, weights: str | Path, device: str | None = None, autocast: str = "none") -> FrozenModel:
        """Load a checkpoint in any layout. Raises `CheckpointError`."""
        checkpoint = load_checkpoint(weights)
        mean, std = normalization(checkpoint)
        chosen = choose_device(device)
        return cls(build_model(checkpoint).to(chosen), chosen, mean, std, AUTOCAST[autocast])

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that the model runs in."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()


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


def cls_features(frozen: FrozenModel, images: Tensor) -> Tensor:
    """Images [B,3,S,S] -> normed CLS, fp32 [B,D], the features of kNN."""
    with torch.no_grad(), frozen.autocast():
        return frozen.model(images.to(frozen.device)).float()


def last_blocks(frozen: FrozenModel, images: Tensor, n: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Images [B,3,S,S] -> (patches [B,P,D], CLS [B,D]) of the last n blocks, normed.

    Raises `DataError` for more than the last stage of a ConvNeXt.
    """
    if isinstance(frozen.model, ConvNeXt) and n > 1:
        raise DataError(f"the last {n} stages of a ConvNeXt differ in width; wanted --last-blocks 1")
    with torch.no_grad(), frozen.autocast():
        return frozen.model.get_intermediate_layers(images.to(frozen.device), n=n, return_class_token=True)


def probe_input(blocks: Sequence[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """(patches [B,P,D], CLS [B,D]) of blocks -> CLS of the last n, then the mean patch of the last one: fp32
    [B,(n+1)D]."""
    tokens = [cls for _, cls in blocks[-n:]]
    return torch.cat([*tokens, blocks[-1][0].mean(dim=1)], dim=-1).float()


def extract(
    frozen: FrozenModel,
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
