"""Train a linear head on the maps of a frozen model, with exact resume (docs/spec.md 5.4, 5.6).

The model sees new crops at every step. One process trains on whole batches; published runs spread the same
batch of 16 over GPUs, with batch norms over all of them.

Shapes: B batch, D embed_dim, h w patch grid, S T height and width of a crop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.atomic import replacing
from dinov3_ref.data.datasets.pairs import ImagePairs
from dinov3_ref.data.loaders import make_data_loader
from dinov3_ref.data.sample import derive_seed, torch_seed
from dinov3_ref.errors import DataError, TrainingDiverged
from dinov3_ref.eval.dense.schedule import OneCycle
from dinov3_ref.eval.dense.segmentation_crops import collate_pairs
from dinov3_ref.eval.features import Frozen
from dinov3_ref.heads import Head

CHECKPOINT = "checkpoint.pth"
REPORTS = 20  # progress lines of a run


@dataclass(frozen=True)
class FitOptions:
    """How a head is trained. Raises `DataError` for impossible numbers.

    warmup: share of the steps. ratio, lag: of the schedule (`OneCycle`). beta: second of AdamW. clip: of the
    gradient's norm. dropout: of whole channels. every: steps between checkpoints.
    """

    steps: int
    batch: int
    rate: float
    weight_decay: float
    warmup: float
    ratio: float = 0.0
    lag: int = 0
    beta: float = 0.999
    clip: float = float("inf")
    dropout: float = 0.0
    every: int = 1600
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "every"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}; wanted at least 1")
        if not self.rate > 0:
            raise DataError(f"--lr {self.rate}; wanted a number above 0")


Loss = Callable[[Tensor, Tensor, int], Tensor]  # (head's output [B,K,S,T], maps [B,S,T], step) -> scalar


class HeadFit:
    """The training of one head. folder: for the checkpoint; None: write none.

    described: settings that a run must share with the checkpoint that it resumes.
    """

    def __init__(
        self,
        frozen: Frozen,
        head: Head,
        pairs: ImagePairs,
        loss: Loss,
        options: FitOptions,
        *,
        folder: Path | None = None,
        described: Mapping[str, Any] | None = None,
        workers: int = 0,
    ) -> None:
        self.frozen, self.pairs, self.loss, self.options = frozen, pairs, loss, options
        self.head = head.to(frozen.device)
        self.folder, self.workers = folder, workers
        self.described = json.dumps({**asdict(options), **(described or {})}, sort_keys=True, default=str)
        self.schedule = OneCycle(options.rate, options.steps, options.warmup, options.ratio, options.lag)
        self.optimiser = torch.optim.AdamW(
            head.parameters(), lr=options.rate, betas=(0.9, options.beta), weight_decay=options.weight_decay
        )
        self.step = 0

    def run(self, report: Callable[[str], None] = lambda line: None) -> None:
        """Train for the remaining steps. Raises `TrainingDiverged` for a loss that is not finite."""
        options = self.options
        batches = self._batches()
        self.head.train()
        while self.step < options.steps:
            loss = self._train(next(batches))
            self.step += 1
            if self.step % max(1, options.steps // REPORTS) == 0 or self.step == options.steps:
                report(f"step {self.step} of {options.steps}: loss {loss:.4f}")
            if self.step % options.every == 0 or self.step == options.steps:
                self._save()
        self.head.eval()

    def resume(self) -> None:
        """Continue from the checkpoint in `folder`. Raises `DataError` without one, or another run's."""
        path = self.folder / CHECKPOINT if self.folder is not None else None
        if path is None or not path.is_file():
            raise DataError(f"'{self.folder}' holds no {CHECKPOINT} to resume; start without --resume")
        saved = torch.load(path, map_location=self.frozen.device, weights_only=True)
        if saved.get("options") != self.described:
            raise DataError(f"'{path}' is of other options or data; resume with the same, or start anew")
        self.head.load_state_dict(saved["head"])
        self.optimiser.load_state_dict(saved["optimizer"])
        self.step = saved["step"]

    def _batches(self) -> Iterator[dict[str, Any]]:
        options = self.options
        return iter(
            make_data_loader(
                dataset=self.pairs,
                batch_size=options.batch,
                collate_fn=collate_pairs,
                num_workers=self.workers,
                seed=options.seed,
                sampler_advance=self.step * options.batch,
                rank=0,
                world_size=1,
            )
        )

    def _train(self, batch: Mapping[str, Tensor]) -> float:
        rate, first_beta = self.schedule.at(self.step)
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = rate, (first_beta, self.options.beta)
        found = self.frozen.outputs(batch["images"], self.head.inputs)
        maps = [found[name].to(self.frozen.device) for name in self.head.inputs]
        with torch_seed(derive_seed(self.options.seed, "dropout", self.step)):
            maps = [dropped(x, self.options.dropout) for x in maps]
        (made,) = self.head(*maps)
        loss = self.loss(made, batch["maps"].to(made.device), self.step)
        if not torch.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss.item()} at step {self.step}; use a smaller --lr")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.options.clip)
        self.optimiser.step()
        return loss.item()

    def _save(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "options": self.described,
            "head": self.head.state_dict(),
            "optimizer": self.optimiser.state_dict(),
        }
        with replacing(self.folder / CHECKPOINT) as draft:
            torch.save(state, draft)


def dropped(map_BhwD: Tensor, share: float) -> Tensor:
    """A map with that share of its channels set to zero, and the others scaled up."""
    if not share:
        return map_BhwD
    keep = torch.rand(len(map_BhwD), 1, 1, map_BhwD.shape[-1]) >= share  # on the CPU: equal on every device
    return map_BhwD * (keep.to(map_BhwD.device) / (1 - share))


def predictor(frozen: Frozen, head: Head | None, output: str) -> Callable[[Tensor], Tensor]:
    """Images [B,3,H,W] -> what the head makes of them; None: the `output` of the model's own head."""

    def predict(images: Tensor) -> Tensor:
        if head is None:
            return frozen.outputs(images, [output])[output]
        found = frozen.outputs(images, head.inputs)
        with torch.inference_mode():
            (made,) = head(*(found[name].to(frozen.device) for name in head.inputs))
        return F.interpolate(made, size=images.shape[2:], mode="bilinear") if _smaller(made, images) else made

    return predict


def _smaller(made: Tensor, images: Tensor) -> bool:
    return made.shape[2:] != images.shape[2:]


def layers_of_blocks(asked: Sequence[str], n_blocks: int) -> tuple[int, ...]:
    """Block indices that the words of --layers mean; () for the last one. Raises `DataError`.

    last, four_last, or four_even: every fourth of the depth, with the published exception of ViT-L, whose
    first is block 4 (docs/spec.md 5.4).
    """
    if list(asked) == ["last"]:
        return ()
    if list(asked) == ["four_last"]:
        return tuple(range(n_blocks - 4, n_blocks))
    if list(asked) == ["four_even"]:
        return (4, 11, 17, 23) if n_blocks == 24 else tuple(n * (n_blocks // 4) - 1 for n in range(1, 5))
    if not all(word.isdecimal() and int(word) < n_blocks for word in asked):
        raise DataError(
            f"--layers {' '.join(asked)}; wanted last, four_last, four_even, or numbers up to {n_blocks - 1}"
        )
    return tuple(sorted({int(word) for word in asked}))
