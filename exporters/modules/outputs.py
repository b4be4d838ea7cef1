"""Name the outputs of a module: tensors in a tuple, a dictionary, or a library's output class.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dinodeploy.errors import MisuseError

NAME = re.compile(r"[a-z][a-z0-9_]*")


def tensors_in(made: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every tensor that a module returned: `logits`, `maps_0`; without a name, ``."""
    if isinstance(made, Tensor):
        yield name, made
    elif isinstance(made, Mapping) or hasattr(made, "items"):
        for key, value in made.items():
            yield from tensors_in(value, f"{name}_{key}" if name else str(key))
    elif hasattr(made, "_asdict"):
        yield from tensors_in(made._asdict(), name)
    elif isinstance(made, Sequence) and not isinstance(made, str):
        for index, value in enumerate(made):
            yield from tensors_in(value, f"{name}_{index}" if name else str(index))


def names_of(made: Any, asked: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the outputs, and which tensors of `tensors_in` they are.

    asked: names for all tensors in order, or the keys of those that are wanted; default: all, by their keys,
    else output, or output_0, output_1. Raises MisuseError for names that do not fit.
    """
    found = [key for key, _ in tensors_in(made)]
    if not found:
        raise MisuseError(
            f"the module returns a {type(made).__name__}; wanted a tensor, or a tuple or dictionary of them"
        )
    if not asked:
        names = [_default(key, len(found)) for key in found]
        chosen = list(range(len(found)))
    elif set(asked) <= set(found):
        names, chosen = list(asked), [found.index(name) for name in asked]
    elif len(asked) == len(found):
        names, chosen = list(asked), list(range(len(found)))
    else:
        keys = f" ({', '.join(found)})" if any(found) else ""
        raise MisuseError(
            f"outputs {', '.join(asked)}: the module returns {len(found)} tensors{keys}; wanted a name for "
            "each, or some of the keys"
        )
    wrong = next((name for name in names if not NAME.fullmatch(name)), None)
    if wrong is not None or len(set(names)) < len(names):
        raise MisuseError(
            f"output name {wrong or names[0]!r}: wanted distinct names of lower-case letters, digits and _"
        )
    return tuple(names), tuple(chosen)


def _default(key: str, count: int) -> str:
    if not key:
        return "output"
    plain = re.sub(r"[^a-z0-9_]", "_", key.lower())
    return plain if plain[0].isalpha() else f"output_{plain}" if count > 1 else "output"


class ChosenOutputs(nn.Module):
    """pixels [B,3,H,W] -> the chosen tensors of what the module returns, in fp32."""

    def __init__(self, model: nn.Module, names: Sequence[str], chosen: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.output_names = tuple(names)
        self.chosen = tuple(chosen)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        made = [tensor for _, tensor in tensors_in(self.model(pixels))]
        return tuple(made[index].float() for index in self.chosen)
