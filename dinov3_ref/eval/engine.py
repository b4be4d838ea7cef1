"""Evaluations on an engine, or on anything that maps pixels to named outputs.

The images are prepared as in the published protocol; the engine replaces the model alone, so a difference to
the checkpoint's result comes from the engine. `dinodeploy evaluate` runs this module, which gets the
engine as a function: this package does not know the runtime.

Shapes: B batch, D embed_dim, h w patch grid.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import torch
from torch import Tensor

from dinov3_ref.errors import DataError
from dinov3_ref.eval.command import carry_out, open_checkpoint
from dinov3_ref.eval.features import Frozen

CLS_ONLY = ("knn", "logistic")  # evaluations that read no patches


@dataclass(frozen=True)
class EngineModel:
    """An engine as the frozen model of an evaluation (`Frozen` in `features.py`).

    run: normalised pixels float32 [B,3,H,W] -> arrays by name. on_gpu: whether heads are trained on the GPU.
    """

    run: Callable[[Any], Mapping[str, Any]]
    output_names: Collection[str]
    mean: Sequence[float]
    std: Sequence[float]
    stride: int
    n_blocks: int
    embed_dim: int
    sha256: str = ""
    same_width: bool = True
    on_gpu: bool = False

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.on_gpu and torch.cuda.is_available() else "cpu")

    def outputs(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The named outputs of the engine, fp32. Raises `DataError` for one that it does not have."""
        found = {name: self._own(name) for name in names}
        lacking = [name for name, own in found.items() if own not in self.output_names]
        if lacking:
            layers = ",".join(name.partition("_")[2] for name in lacking if name.startswith("layer_"))
            fix = f"export it with --layers {layers}" if layers else "give --weights instead"
            raise DataError(
                f"the engine has no output {', '.join(lacking)}; it has {', '.join(self.output_names)}: {fix}"
            )
        made = self.run(images.numpy())
        return {name: torch.from_numpy(made[own]).float() for name, own in found.items()}

    def _own(self, name: str) -> str:
        """The engine's name: the map of the last block is `patch`."""
        return {f"layer_{self.n_blocks - 1}": "patch", f"cls_{self.n_blocks - 1}": "cls"}.get(name, name)


# (options, whether CLS is enough) -> an opened engine
OpenEngine = Callable[[argparse.Namespace, bool], AbstractContextManager[EngineModel]]


def evaluate(task: str, arguments: Sequence[str], open_engine: OpenEngine) -> None:
    """Run the evaluation `dinov3_ref.eval.TASK`, with the options of engines beside its own, and print.

    Raises `DataError` for wrong options, the errors of the evaluation, and those of `open_engine`.
    """
    module = import_module(f"dinov3_ref.eval.{task}")
    parser: argparse.ArgumentParser = module.parser()
    parser.prog = f"dinodeploy evaluate {task}"
    parser.add_argument("--engine", help="a bundle, an engine file inside one, or hf://ORG/NAME")
    parser.add_argument("--require-signature", help="public key: the bundle must be signed with it")
    parser.add_argument("--allow-unverified", action="store_true", help="skip the judge")
    parser.error = _refuse  # type: ignore[method-assign]
    options = parser.parse_args(arguments)
    with ExitStack() as opened:

        def open_model(options: argparse.Namespace) -> Frozen | None:
            if options.engine is None:
                return open_checkpoint(options)
            if options.weights is not None:
                raise DataError("--engine and --weights name two models; give one")
            if options.autocast != "none":
                raise DataError("--autocast is for --weights; an engine's precision is in its bundle")
            return opened.enter_context(open_engine(options, task in CLS_ONLY))

        carry_out(options, module.evaluate, module.RESULTS, open_model)


def _refuse(message: str) -> NoReturn:
    raise DataError(message)
