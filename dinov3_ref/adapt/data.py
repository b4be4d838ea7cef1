"""Batches for fine-tuning: augmented training images with their targets, and images to score.

    training   a random crop resized to the input (bicubic), a flip, colours; a mask goes through the same
               crop and flip (nearest). Crops are seeded by their position, so a resumed run draws the same
    scoring    (pixels, target) as the caller prepared them: as the engine will see them

Shapes: H W input in pixels, K classes or values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dinov3_ref.adapt.objectives import IGNORE
from dinov3_ref.adapt.options import FineTuneOptions
from dinov3_ref.data.loaders import ResumableLoader, ignore_stop_signals, make_data_loader
from dinov3_ref.data.sample import Sample
from dinov3_ref.data.transforms import BICUBIC, make_normalize_transform, v2


class Examples(Protocol):
    """For training `(RGB image, target)`; to score `(float32 pixels [3,H,W], target)`.

    The target is a class number, a row of K numbers, or class ids [H,W] of the size of the image.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Normalization:
    """mean and std of RGB in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Training examples after random crops: (float32 [3,H,W], target)."""

    def __init__(self, examples: Examples, options: FineTuneOptions, normalization: Normalization) -> None:
        self.examples = examples
        self.is_dense = options.task == "segment"
        steps: list[Any] = [
            v2.RandomResizedCrop(
                (options.height, options.width), scale=options.crop_scale, interpolation=BICUBIC
            )
        ]
        if options.flip:
            steps.append(v2.RandomHorizontalFlip())
        self.geometry = v2.Compose(steps)
        strength = options.color_jitter
        self.colour = v2.ColorJitter(strength, strength, strength, min(strength / 4, 0.5))
        self.normalize = make_normalize_transform(normalization.mean, normalization.std)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = self.examples[index]
        if self.is_dense:
            from torchvision import tv_tensors

            image, mask = self.geometry(image, tv_tensors.Mask(torch.from_numpy(_clamped(target))))
            target = mask.as_subclass(Tensor).long()
        else:
            image = self.geometry(image)
        return self.normalize(self.colour(image)), as_target(target)


def _clamped(mask: Any) -> Any:
    """Class ids [h,w] as bytes."""
    return np.where(np.asarray(mask) > IGNORE, IGNORE, mask).astype(np.uint8)


def as_target(target: Any) -> Tensor:
    """A class number -> int64 []; a row -> float32 [K]; ids [H,W] -> int64."""
    found = torch.as_tensor(target)
    return found.float() if found.ndim == 1 else found.long()


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """`images` [B,3,H,W] and `targets`; `drawn` and `broken` as the loader wants them."""
    read = [sample for sample in samples if sample.views is not None]
    account = {"drawn": len(samples), "broken": [line for sample in samples for line in sample.broken]}
    if not read:
        return account
    images, targets = ([getattr(sample, name) for sample in read] for name in ("views", "target"))
    return account | {"images": torch.stack(images), "targets": torch.stack(targets)}


def training_loader(
    examples: Examples, options: FineTuneOptions, normalization: Normalization
) -> ResumableLoader:
    """Endless batches in an order that the seed decides; its position can be saved and restored."""
    return make_data_loader(
        dataset=Augmented(examples, options, normalization),
        batch_size=options.batch_size,
        collate_fn=collate,
        num_workers=options.workers,
        seed=options.seed,
    )


def scored_batches(examples: Examples, options: FineTuneOptions) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixels [B,3,H,W], targets) in order."""
    loader: DataLoader[Any] = DataLoader(
        examples,  # type: ignore[arg-type]
        batch_size=options.batch_size,
        num_workers=options.workers,
        collate_fn=_stack,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator().manual_seed(0),  # keeps worker start from using the global one
    )
    yield from loader


def _stack(pairs: Sequence[tuple[Image.Image | Any, Any]]) -> tuple[Tensor, Tensor]:
    images = torch.stack([torch.from_numpy(np.ascontiguousarray(pixels)) for pixels, _ in pairs])
    return images, torch.stack([as_target(target) for _, target in pairs])
