"""The base class of whole models: a backbone of ours and everything after it, images in, results out.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.models.backbone import Backbone

Dimensions = tuple[int | str, ...]  # free ones by name, "batch" first

TASKS = ("classify", "segment", "depth", "detect", "panoptic", "custom")
OUTPUT = re.compile(r"[a-z][a-z0-9_]*")


class TaskModel(nn.Module):
    """Base of whole models: `forward` takes pixels [B,3,H,W] and returns `outputs`, in order.

    kind: name of the model family, such as eomt. task: what `dinodeploy predict` does with the outputs.
    outputs: name -> shape; free dimensions are names: batch, height, width, rows, columns, or any other.
    classes: names by index; empty where there are none. settings: plain JSON values that post-processing
    needs. fixed_size: True if the model takes one input size only. least_side: pixels that both sides of its
    input must have.
    """

    kind: ClassVar[str] = "custom"
    task: str = "custom"
    backbone: Backbone
    outputs: dict[str, Dimensions]
    classes: tuple[str, ...] = ()
    settings: dict[str, Any]
    fixed_size: bool = False
    least_side: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.outputs = {}
        self.settings = {}

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """pixels [B,3,H,W] -> the tensors of `outputs`."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ConfigError for an impossible task or output."""
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}; wanted one of {', '.join(TASKS)}")
        if not self.outputs:
            raise ConfigError(f"{type(self).__name__} has no outputs; wanted name -> shape")
        for name, shape in self.outputs.items():
            if not OUTPUT.fullmatch(name) or shape[:1] != ("batch",):
                raise ConfigError(
                    f"output {name!r} of shape {list(shape)}; wanted a lower-case name, and 'batch' as the "
                    "first dimension"
                )
