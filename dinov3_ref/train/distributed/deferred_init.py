"""Initialise a sharded model without holding it whole: the numbers of a model that was built on one device.

    arch = build_deferred(lambda: SSLMetaArch(config, "meta"), device)  # takes no memory
    ...                                                                 # fully_shard
    initialize(arch, device)                                            # each rank keeps its parts

Random numbers come from one generator in the order of construction, so every rank draws them all. It holds
one whole parameter at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dinov3_ref.distributed import copy_whole
from dinov3_ref.train.networks.trainable import Trainable

Arch = TypeVar("Arch", bound=Trainable)
Draw = Callable[..., Tensor]

# The functions of torch.nn.init that draw random numbers: all initialisation goes through them.
DRAWS = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
)


def build_deferred(build: Callable[[], Arch], device: torch.device) -> Arch:
    """What `build` returns, a model on the meta device.

    Its random numbers are drawn on `device` and dropped. `arch.draws` has for every parameter the state of
    the generator before its last draw.
    """
    states: dict[int, tuple[Tensor, Tensor]] = {}  # holds the tensors, so that their ids stay theirs

    def record(draw: Draw, tensor: Tensor, *args: Any, **named: Any) -> Tensor:
        if not tensor.is_meta:
            return draw(tensor, *args, **named)
        states[id(tensor)] = (tensor, _generator(device).get_state())
        draw(torch.empty_like(tensor, device=device), *args, **named)
        return tensor

    with _draws_through(record):
        arch = build()
    own = arch.named_parameters(remove_duplicate=False)
    arch.draws = {name: states[id(tensor)][1] for name, tensor in own if id(tensor) in states}
    return arch


def initialize(arch: Trainable, device: torch.device) -> None:
    """Give a model on the meta device, sharded or not, its memory on `device` and its initial weights.

    With `arch.draws` the numbers are those of a model that was built on `device`.
    """
    arch.to_empty(device=device)
    _fill_with_nan(arch)  # what `init_weights` forgets is seen
    own = arch.named_parameters(remove_duplicate=False)
    states = {id(tensor): arch.draws[name] for name, tensor in own if name in arch.draws}

    def repeat(draw: Draw, tensor: Tensor, *args: Any, **named: Any) -> Tensor:
        if id(tensor) not in states:
            return draw(tensor, *args, **named)
        whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        _generator(device).set_state(states[id(tensor)])
        copy_whole(tensor, draw(whole, *args, **named))
        return tensor

    after = _generator(device).get_state()
    with _draws_through(repeat), torch.no_grad():
        arch.init_weights()
    _generator(device).set_state(after)
    arch.draws = {}


@torch.no_grad()
def _fill_with_nan(arch: nn.Module) -> None:
    for tensor in (*arch.parameters(), *arch.buffers()):
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))


def _generator(device: torch.device) -> torch.Generator:
    """The generator that initialisation on `device` draws from."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


@contextmanager
def _draws_through(wrapper: Callable[..., Tensor]) -> Iterator[None]:
    """While open, each function of DRAWS is called as `wrapper(function, tensor, ...)`."""
    before = {name: getattr(nn.init, name) for name in DRAWS}

    def wrapped(draw: Draw) -> Draw:
        return lambda tensor, *args, **named: wrapper(draw, tensor, *args, **named)

    try:
        for name, draw in before.items():
            setattr(nn.init, name, wrapped(draw))
        yield
    finally:
        for name, draw in before.items():
            setattr(nn.init, name, draw)
