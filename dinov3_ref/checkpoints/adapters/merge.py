"""Merge a LoRA adapter into a checkpoint, in float64, whatever library's model it was trained on.

An adapter names modules of the model it was trained on: transformers' separate q, k and v, timm's or our
fused qkv, alone or inside a larger model. Each name is looked up among the names of each layout, which gives
the official tensor and, of a separate projection, which third of it. The merged tensors are computed on
access, one at a time.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dinov3_ref.checkpoints.adapters.lora import LoraLayer
from dinov3_ref.checkpoints.adapters.read import Adapter
from dinov3_ref.checkpoints.architecture import CUSTOM
from dinov3_ref.checkpoints.checkpoint import AdapterSource, Checkpoint, LazyTensors
from dinov3_ref.checkpoints.layouts.convnext import CONVNEXT_LAYOUTS
from dinov3_ref.checkpoints.layouts.detect import LAYOUTS
from dinov3_ref.checkpoints.tensor_shapes import expected_shapes
from dinov3_ref.checkpoints.unwrap import CLASSIFIER
from dinov3_ref.errors import ArchMismatch, KeyMismatch
from dinov3_ref.models.config import ConvNeXtConfig
from dinov3_ref.models.released import find_released

Place = tuple[str, int | None]  # official key, and which third of it (None: the whole)
_NUMBERED = re.compile(r"[a-z]+\.\d+\.")  # a block's name
LISTED = 3  # names in a message


@dataclass(frozen=True)
class _Names:
    """How an adapted model names the tensors of the backbone."""

    prefix: str
    places: Mapping[str, Place]  # by name without the prefix
    modern: Callable[[str], str]

    def find(self, name: str) -> Place | None:
        """The place of a tensor called `name` in the adapted model."""
        if not name.startswith(self.prefix):
            return None
        return self.places.get(self.modern(name.removeprefix(self.prefix)))


def merge_adapter(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The checkpoint with the adapter merged. Tensors that it changes become float32.

    Raises ArchMismatch if the adapter names another base, KeyMismatch unless every tensor of the adapter has
    its place and every layer that its configuration names has its tensors.
    """
    _check_base(checkpoint, adapter)
    names = _names_in(checkpoint, adapter)
    shapes = expected_shapes(checkpoint.config)
    changes: dict[str, list[_Placed]] = {}
    beside = dict(checkpoint.beside)
    for change in _changes(adapter):
        place = names.find(change.name)
        if place is not None and place[0] in checkpoint.state:
            key, third = place
            rows = shapes[key][0] // (1 if third is None else 3)
            _check_fits(change, (rows, *shapes[key][1:]), adapter)
            changes.setdefault(key, []).append((third, change))
        elif change.name in beside:
            _check_fits(change, tuple(beside[change.name].shape), adapter)
            beside[change.name] = change.apply(beside[change.name]).float()
        elif place is None and change.layer is None and CLASSIFIER.fullmatch(change.name):
            beside[change.name] = change.apply(torch.empty(0)).float()  # a new head
        else:
            raise KeyMismatch(
                f"the adapter {adapter.source} changes {change.name}, which {checkpoint.source} does not "
                "have; give the base model that it was trained on"
            )
    _check_complete(checkpoint, adapter, names)
    state: dict[str, Tensor | Callable[[], Tensor]] = {
        key: partial(_merged, checkpoint.state, key, changes) for key in checkpoint.state
    }
    trained = len(adapter.trained)
    note = (
        f"merged the adapter {adapter.source}: {len(adapter.layers)} layers"
        f"{f', {trained} trained tensors' if trained else ''}"
    )
    return replace(
        checkpoint,
        state=LazyTensors(state),
        beside=beside,
        adapter=AdapterSource(adapter.source, adapter.sha256),
        notes=(*checkpoint.notes, note),
    )


@dataclass(frozen=True)
class _Change:
    """A new value of one tensor: merged from a layer, or trained whole."""

    name: str
    layer: LoraLayer | None = None
    value: Tensor | None = None

    def problem(self, shape: Sequence[int]) -> str:
        if self.layer is not None:
            return self.layer.problem(shape) if self.name.endswith(".weight") else ""
        assert self.value is not None
        if self.value.numel() == math.prod(shape):
            return ""
        return f"{list(self.value.shape)} does not fit {list(shape)}"

    def apply(self, tensor: Tensor) -> Tensor:
        """The new value in float64, of the old one."""
        if self.layer is None:
            assert self.value is not None
            return self.value.double()
        return self.layer.merged(tensor) if self.name.endswith(".weight") else self.layer.merged_bias(tensor)


_Placed = tuple[int | None, _Change]  # a change of a third of a tensor's rows; None: of the whole


def _changes(adapter: Adapter) -> Iterator[_Change]:
    """Trained tensors first: an adapted bias is added to a trained one."""
    for name, tensor in adapter.trained.items():
        yield _Change(name, value=tensor)
    for module, layer in adapter.layers.items():
        yield _Change(f"{module}.weight", layer)
        if layer.bias is not None:
            yield _Change(f"{module}.bias", layer)


def _merged(state: Mapping[str, Tensor], key: str, changes: Mapping[str, Sequence[_Placed]]) -> Tensor:
    """One official tensor of the merged model."""
    of_key = changes.get(key.replace("bias_mask", "bias"), ())
    if not of_key:
        return state[key]
    merged = state[key].double().clone()
    mask = state.get(key.replace(".bias", ".bias_mask")) if key.endswith(".bias") else None
    for third, change in of_key:
        rows = merged if third is None else merged.chunk(3)[third]
        if third is not None and key.endswith("bias_mask"):
            rows.fill_(1)  # a separate projection has no mask: what was trained counts
        elif not key.endswith("bias_mask"):
            if third is not None and mask is not None:
                rows.mul_(mask.chunk(3)[third])
            rows.copy_(change.apply(rows).reshape(rows.shape))
    return merged.float()


def _check_fits(change: _Change, shape: Sequence[int], adapter: Adapter) -> None:
    if problem := change.problem(shape):
        raise KeyMismatch(
            f"the adapter {adapter.source} was trained on another model: {change.name}: {problem}"
        )


def _check_base(checkpoint: Checkpoint, adapter: Adapter) -> None:
    """Raise ArchMismatch if the adapter names a released model, and the checkpoint is another one."""
    named = find_released(adapter.config.base.removeprefix("timm/")) if adapter.config.base else None
    if named is None or checkpoint.arch == CUSTOM:
        return
    if named.arch != checkpoint.arch or checkpoint.dataset not in (None, named.dataset):
        held = f"{checkpoint.arch}{f', {checkpoint.dataset}' if checkpoint.dataset else ''}"
        raise ArchMismatch(
            f"the adapter {adapter.source} was trained on {adapter.config.base}, {checkpoint.source} holds "
            f"{held}; give the base model that it was trained on"
        )


def _names_in(checkpoint: Checkpoint, adapter: Adapter) -> _Names:
    """The names of the layout that knows most of the adapter's; raises KeyMismatch if none knows any."""
    wanted = [change.name for change in _changes(adapter)]
    layouts = CONVNEXT_LAYOUTS if isinstance(checkpoint.config, ConvNeXtConfig) else LAYOUTS
    best, known = None, 0
    for layout in layouts:
        places = {
            name: (key, third) for key in checkpoint.state for name, third in layout.places(key).items()
        }
        prefixes = Counter(
            prefix for name in wanted if (prefix := _prefix(name, places, layout.modern)) is not None
        )
        if prefixes and (count := prefixes.most_common(1)[0][1]) > known:
            best, known = _Names(prefixes.most_common(1)[0][0], places, layout.modern), count
    if best is None:
        raise KeyMismatch(
            f"the adapter {adapter.source} changes {', '.join(wanted[:LISTED])}, which no layout of "
            f"{checkpoint.source} has; wanted an adapter of a DINOv3 {checkpoint.arch}"
        )
    return best


def _prefix(name: str, places: Mapping[str, Place], modern: Callable[[str], str]) -> str | None:
    """What stands before the longest end of `name` that a layout knows, or None."""
    rest = name
    while modern(rest) not in places:
        _, dot, rest = rest.partition(".")
        if not dot:
            return None
    return name.removesuffix(rest)


def _check_complete(checkpoint: Checkpoint, adapter: Adapter, names: _Names) -> None:
    """Raise KeyMismatch for a layer of a block that the configuration names, without tensors in the file."""
    shapes = expected_shapes(checkpoint.config)
    # what the adapted model puts before the name of a block: "backbone.model."
    before = {
        module.removesuffix(known): known.split(".")[0]
        for module in adapter.layers
        if _NUMBERED.match(known := names.modern(module.removeprefix(names.prefix)))
        and module.endswith(known)
    }
    for name, (key, _) in names.places.items():
        module = name.removesuffix(".weight")
        if module == name or len(shapes[key]) not in (2, 4):
            continue
        for prefix, container in before.items():
            whole = prefix + module
            if (
                name.startswith(f"{container}.")
                and adapter.config.targets(whole)
                and whole not in adapter.layers
            ):
                raise KeyMismatch(
                    f"the adapter {adapter.source} has no tensors of {whole}, which its configuration names; "
                    "fetch or save it again"
                )
