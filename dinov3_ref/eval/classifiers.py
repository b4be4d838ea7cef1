"""A grid of linear classifiers on one frozen model, trained together (docs/spec.md 5.2).

Each has its own learning rate and number of blocks; they share images and steps.

Shapes: B batch, D embed_dim, n last blocks, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
