"""Labelled features, the input of every evaluation.

Shapes: N images, D width of the features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dinov3_ref.distributed import gather_shares, get_rank, get_world_size
from dinov3_ref.errors import DataError


@dataclass(frozen=True, eq=False)  # tensors compare element by element
class Labelled:
    """features: fp32 [N,D]; labels: long [N], or bool [N,C] for several classes per image.

    class_names: names by label. source: named in messages.
    """

    features: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        several = self.labels.ndim == 2 and self.labels.dtype == torch.bool
        rows = self.labels.shape[: 1 if several else None]
        if self.features.ndim != 2 or rows != self.features.shape[:1] or not len(self.labels):
            raise DataError(
                f"'{self.source}' has features {list(self.features.shape)} and labels "
                f"{list(self.labels.shape)}; wanted [N,D] and [N] with N at least 1"
            )
        if not torch.isfinite(self.features).all():
            raise DataError(f"'{self.source}' has features that are NaN or infinite; embed it again")

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor) -> Labelled:
        """The given rows, in that order."""
        return Labelled(self.features[index], self.labels[index], self.class_names, self.source)

    def share(self) -> Labelled:
        """The rows of this rank: every W-th of W ranks."""
        return self.rows(torch.arange(get_rank(), len(self), get_world_size()))

    def gathered(self) -> Labelled:
        """The shares of all ranks, concatenated. A collective: all ranks must call it."""
        return Labelled(
            gather_shares(self.features), gather_shares(self.labels), self.class_names, self.source
        )


def check_pair(train_names: tuple[str, ...], train: str, test_names: tuple[str, ...], test: str) -> None:
    """Raises `DataError` unless `train` has at least two classes, and all those of `test`."""
    if len(train_names) < 2:
        raise DataError(f"'{train}' has one class, {train_names[0]!r}; wanted at least two")
    unknown = [name for name in test_names if name not in train_names]
    if unknown:
        raise DataError(
            f"'{test}' has {len(unknown)} classes that '{train}' lacks, for example {unknown[0]!r}; wanted "
            "the same classes"
        )


def renumber(labels: Tensor, names: tuple[str, ...], like: tuple[str, ...]) -> Tensor:
    """Labels [N] or [N,C] that index `names` -> the same labels as indices of `like`."""
    if names == like:
        return labels
    numbers = torch.tensor([like.index(name) for name in names])
    if labels.ndim == 1:
        return numbers[labels]
    wider = labels.new_zeros(len(labels), len(like))
    wider[:, numbers] = labels
    return wider


def few_rows(labels: Tensor, classes: int, shots: float, seed: int) -> Tensor:
    """Row numbers of a random sample of each class: `shots` images, or below 1 that share of them.

    labels: long [N]. The sample depends on the seed only.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for number in range(classes):
        own = (labels == number).nonzero().flatten()
        count = int(shots) if shots >= 1 else max(1, round(shots * len(own)))
        chosen.append(own[torch.randperm(len(own), generator=generator)[:count]])
    return torch.cat(chosen)


def few_shot(train: Labelled, shots: float, seed: int) -> Labelled:
    """A random sample of each class (`few_rows`). Raises `DataError` for images with several classes."""
    if train.labels.ndim > 1:
        raise DataError(
            f"'{train.source}' has several classes per image; few-shot needs one: leave out --shots"
        )
    return train.rows(few_rows(train.labels, len(train.class_names), shots, seed))


def split_off(labels: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(rows for training, rows for validation): `share` of the images of each class, at least one.

    labels: long [N]; a class with a single image has none for validation. For several classes per image,
    bool [N,C], a share of all images.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.arange(len(labels))]
    if labels.ndim == 1:
        groups = [(labels == number).nonzero().flatten() for number in labels.unique()]
    train, validation = [], []
    for own in groups:
        mixed = own[torch.randperm(len(own), generator=generator)]
        count = max(1, int(share * len(own))) if len(own) > 1 else 0
        validation.append(mixed[:count])
        train.append(mixed[count:])
    return torch.cat(train), torch.cat(validation)
