"""Periodic evaluation of the EMA teacher: kNN accuracy, PCA images.

    <output>/evaluations.json          one line per evaluation: iteration, knn_10_top1, ...
    <output>/pictures/pca_000499.png   patch features as colours, always of the same images

Every rank computes its share of the images; rank 0 writes. Training is not affected: the random number
generators are restored and the weights are only read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dinov3_ref.data.datasets import EncodedImages, make_dataset
from dinov3_ref.data.transforms import make_classification_eval_transform
from dinov3_ref.distributed import all_reduce_sum
from dinov3_ref.eval.features import FrozenModel, extract
from dinov3_ref.eval.knn import KS, knn_accuracy
from dinov3_ref.eval.labelled import check_pair
from dinov3_ref.models.build import build_model
from dinov3_ref.train.distributed.devices import DTYPES
from dinov3_ref.train.export_teacher import whole_backbone
from dinov3_ref.train.logging.run_log import MetricsFile
from dinov3_ref.train.networks.training_networks import TrainingNetworks

PICTURES = "pictures"  # of the images


class PeriodicEvaluation:
    """Reads its datasets when created, so a wrong path shows before training. Raises `DataError`."""

    def __init__(self, config: Any, device: torch.device, total_iterations: int) -> None:
        self.config, self.device, self.total = config, device, total_iterations
        self.output = Path(config.train.output_dir)
        rules = config.evaluation
        self.mean, self.std = tuple(config.crops.rgb_mean), tuple(config.crops.rgb_std)
        self.transform = make_classification_eval_transform(
            crop_size=rules.crop_size, mean=self.mean, std=self.std
        )
        self.labelled: tuple[EncodedImages, EncodedImages] | None = None
        if rules.train_dataset_path:
            train, test = (
                make_dataset(path, labelled=True, transform=self.transform)
                for path in (rules.train_dataset_path, rules.test_dataset_path)
            )
            check_pair(train.class_names, rules.train_dataset_path, test.class_names, rules.test_dataset_path)
            self.labelled = train, test
        self.images = self._read_images() if rules.pictures_path else None

    ends_training = False  # nothing is decided by these scores

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is no state."""

    def is_due_after(self, iteration: int) -> bool:
        """True every `eval_period_iterations` and after the last, if there is a dataset to evaluate."""
        period = self.config.evaluation.eval_period_iterations
        if period == 0 or (self.labelled is None and self.images is None):
            return False
        return (iteration + 1) % period == 0 or iteration + 1 == self.total

    def run(self, networks: TrainingNetworks, iteration: int, file: MetricsFile | None) -> dict[str, float]:
        """Evaluate the teacher after `iteration`; return its kNN accuracies in per cent.

        file: where rank 0 appends them; None on the other ranks. All ranks must call.
        """
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), torch.no_grad():
            frozen = self._frozen(networks)
            accuracies = {} if self.labelled is None else self._knn(frozen)
            if file is not None:
                file.append({"iteration": iteration, **accuracies})
                if self.images is not None:
                    folder = self.output / PICTURES
                    folder.mkdir(exist_ok=True)
                    draw_pca_maps(frozen, self.images, folder / f"pca_{iteration:06d}.png")
        return accuracies

    def _frozen(self, networks: TrainingNetworks) -> FrozenModel:
        """The EMA teacher's backbone as a model that shares its tensors; sharded ones are gathered."""
        model = build_model(self.config, device="meta")
        model.load_state_dict(whole_backbone(networks), strict=True, assign=True)
        dtype = DTYPES[self.config.compute_precision.param_dtype]
        low_precision = None if dtype == torch.float32 else dtype
        return FrozenModel(model.eval(), self.device, self.mean, self.std, low_precision)

    def _knn(self, frozen: FrozenModel) -> dict[str, float]:
        assert self.labelled is not None
        rules = self.config.evaluation
        train, test = (
            extract(frozen, dataset, path, batch_size=rules.batch_size, num_workers=rules.num_workers)
            for dataset, path in zip(
                self.labelled, (rules.train_dataset_path, rules.test_dataset_path), strict=True
            )
        )
        size = int(all_reduce_sum(torch.tensor(len(train))))
        ks = [k for k in KS if k <= size] or [size]
        accuracies = knn_accuracy(train, test, ks=ks)
        return {f"knn_{k}_{name}": value for k in ks for name, value in accuracies[k].items()}

    def _read_images(self) -> Tensor:
        """The first `evaluation.pictures` images [N,3,S,S], normalised."""
        rules = self.config.evaluation
        dataset = make_dataset(rules.pictures_path, transform=self.transform)
        return torch.stack([dataset[index][0] for index in range(min(rules.pictures, len(dataset)))])


RANGE = (0.02, 0.98)  # quantiles shown as black and as full colour
GAP = 4  # pixels


def draw_pca_maps(frozen: FrozenModel, images_NCSS: Tensor, path: Path) -> None:
    """Write a PNG: the images in one row, their maps below; a colour means the same in every map."""
    patches_NPD = frozen.outputs(images_NCSS, ["patch"])["patch"].flatten(1, 2).cpu()
    side, grid = images_NCSS.shape[-1], math.isqrt(patches_NPD.shape[1])
    colours = pca_colours(patches_NPD).transpose(1, 2).unflatten(-1, (grid, grid))
    maps = F.interpolate(colours, size=(side, side), mode="nearest")
    channels = torch.tensor([frozen.mean, frozen.std]).view(2, 1, 3, 1, 1)
    shown_N3SS = (images_NCSS.cpu() * channels[1] + channels[0]).clamp(0, 1)
    sheet = torch.cat([_row(shown_N3SS), _row(maps)], dim=1)
    pixels = (255 * sheet).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path)


def pca_colours(patches_NPD: Tensor) -> Tensor:
    """Features -> colours [N,P,3] in 0..1. The largest weight of each component is positive."""
    rows = patches_NPD.flatten(0, 1).double()
    rows = rows - rows.mean(0)
    _, directions_DD = torch.linalg.eigh(rows.T @ rows)  # in ascending order of variance
    first_3D = directions_DD[:, -3:].T.flip(0)
    largest_31 = first_3D.gather(1, first_3D.abs().argmax(1, keepdim=True))
    shades = rows @ (first_3D * largest_31.sign()).T
    low, high = torch.quantile(shades, torch.tensor(RANGE, dtype=shades.dtype), dim=0)
    shown = ((shades - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).float()
    return shown.view(*patches_NPD.shape[:2], 3)


def _row(images: Tensor) -> Tensor:
    """[N,3,S,S] -> [3,S+GAP,N·(S+GAP)], white between them."""
    padded = F.pad(images, (0, GAP, 0, GAP), value=1.0)
    return torch.cat(list(padded), dim=2)
