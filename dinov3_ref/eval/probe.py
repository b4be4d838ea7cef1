"""Train and test a grid of linear classifiers on frozen features (docs/spec.md 5.2), with exact resume.

Shapes: B batch, M test images, D embed_dim, n last blocks, C classes. Features are the CLS of the largest
number of last blocks that a classifier uses, then the mean patch: [.., (n+1)D].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.atomic import replacing
from dinov3_ref.data.samplers import InfiniteSampler
from dinov3_ref.errors import DataError
from dinov3_ref.eval.labelled import Labelled, renumber
from dinov3_ref.eval.metrics import accuracy, hits

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
BASE_BATCH = 256  # batch size of the listed learning rates
MOMENTUM = 0.9

Inputs = Mapping[int, Tensor]  # number of last blocks -> [B,(n+1)D]


class LinearClassifiers(nn.Module):
    """The grid. Names are the official ones, with the learning rate scaled by batch / 256."""

    def __init__(
        self, widths: Mapping[int, int], classes: int, batch: int, rates: Sequence[float] = LEARNING_RATES
    ) -> None:
        """widths: number of last blocks -> input width. batch: images per step over all ranks."""
        super().__init__()
        self.heads = nn.ModuleDict()
        self.blocks: dict[str, int] = {}
        self.rates: dict[str, float] = {}
        for n, width in widths.items():
            for rate in rates:
                scaled = rate * batch / BASE_BATCH
                name = _name(n, scaled, 5)
                if name in self.heads:  # for small batches several rates round to 0_00000
                    name = _name(n, scaled, 9)
                self.heads[name] = _linear(width, classes)
                self.blocks[name] = n
                self.rates[name] = scaled

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Logits [B,C] of every classifier."""
        return {name: head(inputs[self.blocks[name]]) for name, head in self.heads.items()}

    def loss(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Sum of all cross-entropies; the gradients of the classifiers are independent."""
        return torch.stack([F.cross_entropy(logits, labels) for logits in self(inputs).values()]).sum()

    def optimiser(self, steps: int) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.LRScheduler]:
        """SGD with one rate per classifier and cosine decay to zero over `steps`."""
        groups = [{"params": head.parameters(), "lr": self.rates[name]} for name, head in self.heads.items()]
        sgd = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=0.0)
        return sgd, torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps, eta_min=0.0)


def _name(blocks: int, rate: float, digits: int) -> str:
    return f"classifier_{blocks}_blocks_avgpool_True_lr_{rate:.{digits}f}".replace(".", "_")


def _linear(width: int, classes: int) -> nn.Linear:
    """A linear layer with weights N(0, 0.01) and bias 0."""
    head = nn.Linear(width, classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


CHECKPOINT = "checkpoint.pth"
HEAD = "linear_head.pth"  # the best one: weight [C,(n+1)D], bias [C], as in released `_lc` files

Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]  # samples to skip -> endless (features, labels)


@dataclass(frozen=True)
class ProbeOptions:
    """An epoch has a fixed length for any size of data. Raises `DataError` for numbers below 1."""

    epochs: int = 10
    epoch_length: int = 1250
    batch: int = 128
    last_blocks: tuple[int, ...] = (1,)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "epoch_length", "batch"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}; wanted at least 1")
        if not self.last_blocks or min(self.last_blocks) < 1:
            raise DataError(f"last_blocks is {self.last_blocks}; wanted numbers of blocks, at least 1")


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies of the best classifier in per cent, and the best top-1 of all epochs so far."""

    name: str
    top1: float
    top5: float
    best_top1: float


class LinearProbe:
    """All classifiers of one evaluation, tested after every epoch.

    folder: for the checkpoint and the best head; None: write nothing. The best classifier is chosen on
    `test`, as for published numbers.
    """

    def __init__(
        self,
        test: Labelled,
        class_names: tuple[str, ...],
        options: ProbeOptions,
        *,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.options = options
        self.folder = folder
        self.device = torch.device(device)
        self.features_MF = test.features.to(device)
        self.labels_M = renumber(test.labels, test.class_names, class_names).to(device)
        width, most = test.features.shape[1], max(options.last_blocks)
        self.skip = {n: (most - n) * (width // (most + 1)) for n in options.last_blocks}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(options.seed)
            widths = {n: width - skip for n, skip in self.skip.items()}
            self.grid = LinearClassifiers(widths, len(class_names), options.batch).to(device)
        self.optimiser, self.scheduler = self.grid.optimiser(options.epochs * options.epoch_length)
        self.epoch = 0
        self.best_top1 = -1.0

    def run(self, batches: Batches, report: Callable[[str], None] = lambda line: None) -> ProbeResult:
        """Train for the remaining epochs, then test. `report` gets one line per epoch."""
        source = batches(self.epoch * self.options.epoch_length * self.options.batch)
        result = self.judge()
        while self.epoch < self.options.epochs:
            for _ in range(self.options.epoch_length):
                self._step(*next(source))
            self.epoch += 1
            result = self.judge()
            self._save(result)
            report(f"epoch {self.epoch} of {self.options.epochs}: {result.name} {result.top1:.2f}")
        return result

    def judge(self) -> ProbeResult:
        """Test all classifiers; returns the best and updates `best_top1`."""
        with torch.inference_mode():
            logits = self.grid(self._inputs(self.features_MF))
        top1 = {name: _top1(score_MC, self.labels_M) for name, score_MC in logits.items()}
        name = max(top1, key=lambda one: top1[one])
        self.best_top1 = max(self.best_top1, top1[name])
        top5 = accuracy(logits[name], self.labels_M)["top5"]
        return ProbeResult(name, top1[name], top5, self.best_top1)

    def logits(self, name: str, features_MF: Tensor) -> Tensor:
        """Scores [M,C] of one classifier, on the CPU."""
        with torch.inference_mode():
            inputs = self._inputs(features_MF.to(self.device))
            return self.grid.heads[name](inputs[self.grid.blocks[name]]).cpu()

    def load(self) -> None:
        """Resume from the checkpoint in `folder`. Raises `DataError` if it is missing or of another grid."""
        if self.folder is None or not (self.folder / CHECKPOINT).is_file():
            raise DataError(f"'{self.folder}' holds no {CHECKPOINT} to resume; start without --resume")
        saved = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        try:
            self.grid.load_state_dict(saved["linear_classifiers"])
            self.optimiser.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"'{self.folder / CHECKPOINT}' has other classifiers; resume with the same options and data"
            ) from error
        self.scheduler.load_state_dict(saved["scheduler"])
        self.epoch = saved["iteration"] // self.options.epoch_length
        self.best_top1 = saved["best_accuracy"]

    def _inputs(self, features: Tensor) -> Inputs:
        return {n: features[:, skip:] for n, skip in self.skip.items()}

    def _step(self, features: Tensor, labels: Tensor) -> None:
        loss = self.grid.loss(self._inputs(features.to(self.device)), labels.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.scheduler.step()

    def _save(self, result: ProbeResult) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "iteration": self.epoch * self.options.epoch_length,
            "linear_classifiers": self.grid.state_dict(),
            "optimizer": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best_accuracy": self.best_top1,
        }
        with replacing(self.folder / CHECKPOINT) as draft:
            torch.save(state, draft)
        if result.top1 == self.best_top1:
            with replacing(self.folder / HEAD) as draft:
                torch.save(self.grid.heads[result.name].state_dict(), draft)


def rows_at_random(train: Labelled, batch: int, seed: int) -> Batches:
    """Batches of precomputed features; every pass has another order."""

    def from_sample(skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        draws = iter(InfiniteSampler(sample_count=len(train), seed=seed, start=0, step=1, advance=skip))
        while True:
            rows = torch.tensor(list(islice(draws, batch)))
            yield train.features[rows], train.labels[rows]

    return from_sample


def _top1(score_MC: Tensor, label_M: Tensor) -> float:
    """Per cent of rows whose label is the best class."""
    return 100 * hits(score_MC, label_M, 1).double().mean().item()
