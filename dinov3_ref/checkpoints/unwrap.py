"""Extract one backbone's tensors from a file: open wrappers, strip prefixes, drop what is not the backbone.

Source: docs/spec.md 3.1 (training-run variants) and 3.5, steps 1 and 2.

A file may hold several copies of a model: raw weights, their moving average (EMA), a student, a teacher.
Every mapping in the file and every prefix under which a backbone is found is a candidate. EMA weights are
preferred to raw ones, and both to a student. Who writes which name:

    teacher                             DINO: the EMA of the student
    state_dict_ema                      timm
    model_ema                           torchvision's references, torch's AveragedModel
    ema, ema.module                     RT-DETR and DEIM
    ema_model.*, online_model.*         ema-pytorch: the EMA, and the weights in training
    state_dict, ema_state_dict          mmengine: exchanged, `state_dict` is the EMA
    state_dict, current_model_state     Lightning's WeightAveraging: `state_dict` is the EMA
    backbone.*, ema_backbone_*          mmcv 1: exchanged in the same way
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.errors import CheckpointError

# Keys under which a state dict without a backbone is looked for, for the error message.
WRAPPERS = ("teacher", "model_ema", "model", "state_dict", "model_state_dict", "student")
MAX_DEPTH = 4  # of nested mappings
TOWERS = ("text_model.", "visual_model.", "vision_model.", "transformer.resblocks.")  # of models with text
LISTED = 5  # names in a message

# Inserted into key names by torch.compile, activation checkpointing, FSDP and DDP.
_INSERTED = re.compile(r"_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\.|(?<![^.])module\.")

_ANCHOR = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:"
    r"(?:embeddings\.)?(?:cls_token|patch_embed\.proj\.weight|patch_embeddings\.(?:proj\.)?weight)"
    r"|downsample_layers\.0\.0\.weight|stem\.0\.weight|(?:model\.)?stages\.0\.downsample_layers\.0\.weight)"
)

# Training-only parts beside the backbone (docs/spec.md 3.1); released models have none of them.
_TRAINING_PART = re.compile(
    r"(?:^|\.)(student|gram_teacher|gram_backbone|teacher|model_ema|dino_head|ibot_head|dino_loss|ibot_patch_loss|"
    r"koleo_loss|gram_loss|optimizer)\."
)
# What task models put beside the keys of a backbone without a prefix. timm's backbones have a `head.norm`.
_HEAD = re.compile(
    r"(head(?!\.norm\.)|heads|head_dist|\w+_head|classifier|fc|linear|decoder|neck|projector|n_averaged)(?:\.|$)"
)
# The tensors of a linear classifier beside a backbone; inside a Sequential it has a number.
CLASSIFIER = re.compile(
    r"(?:\w+\.)*?(?:head|heads|\w+_head|classifier|fc|linear|logits)(?:\.\d+)*\.(?:weight|bias)"
)
_MMCV_COPY = re.compile(
    r"ema_\w+_(?:weight|bias|cls_token|mask_token|storage_tokens|gamma|periods|bias_mask)"
)

_EMA = re.compile(r"(?:^|_)(?:ema|swa|polyak|teacher|target|averaged?|avg)(?:_|$)|EMA$", re.IGNORECASE)
_LESSER = re.compile(
    r"(?:^|_)(?:student|online|gram)(?:_|$)|^current_model_state$|^optimi[sz]er", re.IGNORECASE
)
# Parts of a whole ViT or ConvNeXt: other networks have a `stem.0.weight` too.
_OUTER = r"(?:model\.|encoder\.)?"  # older Hugging Face names
_WHOLE = tuple(
    (re.compile(first), re.compile(second))
    for first, second in (
        (r"(?:embeddings\.)?cls_token", rf"(?:blocks|{_OUTER}layer)\.0\."),
        (r"stem\.0\.weight|downsample_layers\.0", r"stages\.0\."),
        (rf"{_OUTER}stages\.0\.downsample_layers", rf"{_OUTER}stages\.0\."),
    )
)


@dataclass(frozen=True)
class Candidate:
    """One backbone in a file: the mapping that holds it, its name, and the prefix of its keys there."""

    path: tuple[str, ...]
    tree: Mapping[str, Any]
    prefix: str  # after `_INSERTED` was removed
    is_ema: bool = False
    is_lesser: bool = False  # a student, or weights that a better candidate averages
    is_whole: bool = True  # has the parts of a ViT or a ConvNeXt

    @property
    def name(self) -> str:
        """Dotted name for messages and `weights_key`; "" for a bare state dict."""
        return ".".join((*self.path, *filter(None, self.prefix.split("."))))

    @property
    def rank(self) -> tuple[bool, bool]:
        return self.is_lesser, not self.is_ema


@dataclass(frozen=True)
class Unwrapped:
    """The parts of a file: one backbone's tensors by bare key, the tensors outside it, and notes."""

    backbone: dict[str, Tensor]
    rest: dict[str, Tensor]
    notes: list[str]


def unwrap(tree: Mapping[str, Any], name: str, weights_key: str | None = None) -> Unwrapped:
    """Find one backbone in a file.

    name: of the file, for messages. weights_key: which copy to read, by the dotted name that the notes and
    errors show. Raises `CheckpointError` if nothing fits, or if two different backbones fit equally well.
    """
    candidates = list(_candidates(tree))
    candidates = [one for one in candidates if one.is_whole] or candidates
    if weights_key is not None:
        candidates = _asked(candidates, weights_key, name)
    if not candidates:
        return Unwrapped(_tensors(_deepest(tree), name)[0], {}, [])
    chosen = _choose(candidates, name)
    tensors, notes = _tensors(chosen.tree, name)
    if weights_key is None and any(key.startswith(TOWERS) for key in tensors):
        return Unwrapped(tensors, {}, [])  # the layout's detection says what it is
    backbone: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    training = Counter[str]()
    for key, tensor in tensors.items():
        inside = key.removeprefix(chosen.prefix)
        head = _MMCV_COPY.fullmatch(key) or (_HEAD.match(inside) if not chosen.prefix else None)
        if (part := _TRAINING_PART.search(inside)) is not None:
            training[part[1]] += 1
        elif head is not None or not key.startswith(chosen.prefix):
            rest[key] = tensor
        else:
            backbone[inside] = tensor
    notes = [
        *_notes_on_choice(chosen, candidates, tree),
        *notes,
        *notes_on_rest(rest),
        *(f"left out {count} tensors of {part} (training only)" for part, count in sorted(training.items())),
    ]
    return Unwrapped(backbone, rest, notes)


def _candidates(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Candidate]:
    """All backbones in a tree of mappings."""
    keys = [
        _INSERTED.sub("", key) for key, value in tree.items() if isinstance(key, str) and _is_tensor(value)
    ]
    prefixes = {match["prefix"] for key in keys if (match := _ANCHOR.fullmatch(key))}
    exchanged = {"current_model_state", "averaging_state"} & set(tree) or _is_mmengine(tree)
    for prefix in sorted(prefixes, key=lambda one: (len(one), one)):
        parts = [*path, *prefix.split(".")]
        inside = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        yield Candidate(
            path,
            tree,
            prefix,
            is_ema=any(_EMA.search(part) for part in parts),
            is_lesser=any(_LESSER.search(part) for part in parts),
            is_whole=any(all(any(map(part.match, inside)) for part in whole) for whole in _WHOLE),
        )
    if len(path) == MAX_DEPTH:
        return
    for key, value in tree.items():
        if isinstance(value, Mapping) and isinstance(key, str):
            for found in _candidates(value, (*path, key)):
                if exchanged:
                    is_average = key == "state_dict"
                    found = replace(found, is_ema=is_average, is_lesser=not is_average)
                yield found


def _is_mmengine(tree: Mapping[str, Any]) -> bool:
    """Whether mmengine's EMAHook wrote this: it stores the EMA as `state_dict`, the raw weights beside it."""
    beside, meta = tree.get("ema_state_dict"), tree.get("meta")
    if not isinstance(beside, Mapping) or not isinstance(tree.get("state_dict"), Mapping):
        return False
    return "steps" in beside or (isinstance(meta, Mapping) and "mmengine_version" in meta)


def _asked(candidates: list[Candidate], weights_key: str, name: str) -> list[Candidate]:
    """The candidates called `weights_key`, or below it. Raises `CheckpointError` unless one exists."""
    asked = weights_key.rstrip(".")
    fitting = [one for one in candidates if f"{one.name}.".startswith(f"{asked}.")]
    if not fitting:
        known = ", ".join(one.name or "'' (the file itself)" for one in candidates[:LISTED]) or "none"
        raise CheckpointError(f"{name} has no backbone under {weights_key!r}; found: {known}")
    exact = [one for one in fitting if one.name == asked]
    return exact or fitting


def _choose(candidates: list[Candidate], name: str) -> Candidate:
    """The best candidate. Raises `CheckpointError` if another, different one is as good."""
    best = min(candidates, key=lambda one: one.rank)  # the first of them: shortest prefix
    equals = [one for one in candidates if one.rank == best.rank and one is not best]
    for other in equals:
        if other.prefix.startswith(best.prefix) and other.tree is best.tree and best.prefix != other.prefix:
            continue  # a part of the best one, which its strict check judges
        if not _same_weights(best, other):
            names = ", ".join(one.name or "''" for one in (best, *equals)[:LISTED])
            raise CheckpointError(
                f"{name} holds several different backbones ({names}); choose one with --weights-key"
            )
    return best


def _same_weights(one: Candidate, other: Candidate) -> bool:
    left, right = (
        {
            bare.removeprefix(candidate.prefix): value
            for key, value in candidate.tree.items()
            if (bare := _INSERTED.sub("", str(key))).startswith(candidate.prefix) and _is_tensor(value)
        }
        for candidate in (one, other)
    )
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def _tensors(tree: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a mapping by bare key, and a note on its other entries."""
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    for key, value in tree.items():
        bare = _INSERTED.sub("", str(key))
        if not _is_tensor(value):
            others.append(str(key))
            continue
        if bare in tensors:
            raise CheckpointError(
                f"{name} holds {bare!r} twice, once as {str(key)!r}; wanted each tensor once"
            )
        tensors[bare] = value.detach()
    if not tensors:
        kinds = ", ".join(f"{key} ({type(tree[key]).__name__})" for key in list(tree)[:LISTED]) or "nothing"
        raise CheckpointError(
            f"{name} holds no tensors but {kinds}; wanted a DINOv3 state dict, bare or under one of "
            f"{', '.join(WRAPPERS)}"
        )
    return tensors, [f"left out {', '.join(sorted(others)[:LISTED])} beside the tensors"] if others else []


def _deepest(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict of a file without a backbone, for the error message."""
    for _ in range(MAX_DEPTH):
        wrapper = next((key for key in WRAPPERS if isinstance(tree.get(key), Mapping)), None)
        if wrapper is None:
            break
        tree = tree[wrapper]
    return tree


def _notes_on_choice(
    chosen: Candidate, candidates: list[Candidate], tree: Mapping[str, Any]
) -> Iterator[str]:
    others = [one.name or "''" for one in candidates if one is not chosen]
    if others and (chosen.is_ema or any(one.rank != chosen.rank for one in candidates)):
        kind = "the moving average (EMA)" if chosen.is_ema else "the weights"
        yield (
            f"read {kind} in {chosen.name or 'the file itself'!r}, not {', '.join(others[:LISTED])}; "
            "--weights-key chooses another"
        )
    if chosen.path:
        copies = {one.path[0] for one in candidates if one.path}
        beside = sorted(str(key) for key in tree if key not in copies)
        if beside:
            yield f"read {chosen.path[0]!r}; left out {', '.join(beside[:LISTED])} beside it"


def notes_on_rest(rest: Mapping[str, Tensor]) -> Iterator[str]:
    """The note that tensors outside the backbone were left out, if there are any."""
    counts = Counter("ema_*" if _MMCV_COPY.fullmatch(key) else key.split(".")[0] for key in rest)
    if counts:
        parts = ", ".join(f"{part} ({count})" for part, count in counts.most_common(LISTED))
        more = ", …" if len(counts) > LISTED else ""
        yield f"read the backbone only; left out {len(rest)} tensors outside it: {parts}{more}"


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
