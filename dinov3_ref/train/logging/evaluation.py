"""Periodic evaluation of the EMA teacher: kNN accuracy, PCA images.

    <output>/evaluations.json          one line per evaluation: iteration, knn_10_top1, ...
    <output>/pictures/pca_000499.png   patch features as colours, always of the same images

Every rank computes its share of the images; rank 0 writes. Training is not affected: the random number
generators are restored and the weights are only read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.data.datasets import EncodedImages, make_dataset
from dinov3_ref.data.transforms import make_classification_eval_transform
from dinov3_ref.distributed import all_reduce_sum
from dinov3_ref.eval.features import FrozenModel, extract
from dinov3_ref.eval.knn import KS, knn_accuracy
from dinov3_ref.eval.labelled import check_pair
from dinov3_ref.models.build import build_model
from dinov3_ref.train.distributed.precision import DTYPES
from dinov3_ref.train.export_teacher import whole_backbone
from dinov3_ref.train.logging.metrics import MetricsFile
from dinov3_ref.train.logging.pca_images import draw_pca_maps
from dinov3_ref.train.networks.training_networks import TrainingNetworks

FILE = "evaluations.json"
FOLDER = "pictures"  # of the images


class PeriodicEvaluation:
    """Reads its datasets when created, so a wrong path shows before training. Raises `DataError`."""

    def __init__(self, config: Any, device: torch.device, total_iterations: int) -> None:
        self.config, self.device, self.total = config, device, total_iterations
        self.output = Path(config.train.output_dir)
        rules = config.evaluation
        self.labelled: tuple[EncodedImages, EncodedImages] | None = None
        if rules.train_dataset_path:
            train, test = (
                make_dataset(path, labelled=True, transform=self._transform())
                for path in (rules.train_dataset_path, rules.test_dataset_path)
            )
            check_pair(train.class_names, rules.train_dataset_path, test.class_names, rules.test_dataset_path)
            self.labelled = train, test
        self.images = self._read_images() if rules.pictures_path else None

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
                    folder = self.output / FOLDER
                    folder.mkdir(exist_ok=True)
                    draw_pca_maps(frozen, self.images, folder / f"pca_{iteration:06d}.png")
        return accuracies

    def _frozen(self, networks: TrainingNetworks) -> FrozenModel:
        """The EMA teacher's backbone as a model that shares its tensors; sharded ones are gathered."""
        model = build_model(self.config, device="meta")
        model.load_state_dict(whole_backbone(networks), strict=True, assign=True)
        crops, dtype = self.config.crops, DTYPES[self.config.compute_precision.param_dtype]
        return FrozenModel(
            model.eval(),
            self.device,
            tuple(crops.rgb_mean),
            tuple(crops.rgb_std),
            None if dtype == torch.float32 else dtype,
        )

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
        dataset = make_dataset(rules.pictures_path, transform=self._transform())
        return torch.stack([dataset[index][0] for index in range(min(rules.pictures, len(dataset)))])

    def _transform(self) -> Any:
        crops = self.config.crops
        return make_classification_eval_transform(
            crop_size=self.config.evaluation.crop_size, mean=tuple(crops.rgb_mean), std=tuple(crops.rgb_std)
        )
