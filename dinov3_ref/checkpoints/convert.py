"""Write a checkpoint in another layout: official, Hugging Face or timm (docs/spec.md 3.3, 3.4).

Round trips are exact, tensor by tensor, except for what a layout cannot store:

- hf and timm store bias · mask, so a masked bias is lost; the way back writes bias [q, 0, v] and mask
  [1, 0, 1]. Both drop RoPE periods (computed again when loading) and `local_cls_norm` (the identity then);
- timm also drops the mask token (zeros when loading) and all-zero qkv biases, which its plain variants lack;
  else the `_qkvb` variant is written. Dropped biases come back as zeros for the shapes of ARCHITECTURES; a
  model of other shapes comes back without biases, and computes the same.

A ConvNeXt loses nothing in any layout.

Output is atomic: it appears by a rename, and only replaces checkpoints.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dinov3_ref.atomic import replacing
from dinov3_ref.checkpoints.checkpoint import Checkpoint
from dinov3_ref.checkpoints.files import CONFIG, MODEL_CONFIG, write_safetensors
from dinov3_ref.checkpoints.layouts.convnext import CONVNEXT_LAYOUTS, repeat_norm
from dinov3_ref.checkpoints.layouts.detect import LAYOUTS
from dinov3_ref.checkpoints.layouts.official import PERIODS, PeriodRounding, round_to_bf16
from dinov3_ref.checkpoints.load import load_checkpoint
from dinov3_ref.checkpoints.sidecars import hf_config, hf_preprocessor, obstacles, timm_config
from dinov3_ref.errors import CheckpointError, reason_of
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig

Target = Literal["hf", "timm", "official"]
TARGETS = get_args(Target)

MAX_SHARD_BYTES = 5 * 10**9  # what the hub and transformers use


def convert(
    source: str | os.PathLike[str],
    to: Target,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    arch: str | None = None,
    periods: PeriodRounding = "bf16",
    weights_key: str | None = None,
    log: Callable[[str], None] = lambda note: None,
) -> list[Path]:
    """Load `source` with `load_checkpoint`, write it with `save_checkpoint`; returns the files written.

    log: gets each note on what was assumed, filled in or left out.
    """
    _refuse_existing(Path(out), overwrite)  # before a long load
    checkpoint = load_checkpoint(source, arch=arch, periods=periods, weights_key=weights_key)
    for note in checkpoint.notes:
        log(note)
    return save_checkpoint(checkpoint, to, out, overwrite=overwrite)


def save_checkpoint(
    checkpoint: Checkpoint,
    to: Target,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Write `checkpoint` and return the files written.

    hf: a directory for `transformers.AutoModel.from_pretrained`. timm: a directory for
    `timm.create_model("local-dir:OUT")`; its model.safetensors also works as `checkpoint_path=`. official:
    one file, `torch.save` if `out` ends in .pth and safetensors otherwise, with bf16 periods as released;
    safetensors also stores the model's options, which a .pth as released cannot.
    Raises `CheckpointError` if `out` exists or the layout cannot store this model.
    """
    if to not in TARGETS:
        raise CheckpointError(f"unknown layout {to!r}; wanted one of {', '.join(TARGETS)}")
    if to != "official" and (reasons := list(obstacles(checkpoint, to))):
        raise CheckpointError(f"the {to} layout cannot hold {checkpoint.source}: {'; '.join(reasons)}")
    out = Path(out)
    if to == "official" and out.suffix == ".pth" and (unseen := _unseen(checkpoint.config)):
        raise CheckpointError(
            f"{checkpoint.source} has {unseen}, which a .pth file in the official layout cannot say; write "
            "a .safetensors file"
        )
    _refuse_existing(out, overwrite)
    names: list[str] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as draft:
            if to == "official":
                _write_official(checkpoint, draft)
            else:
                names = _write_directory(checkpoint, to, draft, max_shard_bytes)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {reason_of(error)}") from error
    return [out / name for name in names] if names else [out]


def _write_official(checkpoint: Checkpoint, draft: Path) -> None:
    state = repeat_norm({key: _compact(tensor) for key, tensor in checkpoint.state.items()})
    if PERIODS in state and torch.equal(round_to_bf16(state[PERIODS]), state[PERIODS]):
        state[PERIODS] = state[PERIODS].to(torch.bfloat16)
    if draft.suffix == ".pth":
        torch.save(state, draft)
    else:
        described: dict[str, Any] = {MODEL_CONFIG: checkpoint.config.kwargs()}
        if checkpoint.mean and checkpoint.std:
            described["pretrained_cfg"] = {"mean": checkpoint.mean, "std": checkpoint.std}
        write_safetensors(state, draft, metadata={CONFIG: json.dumps(described)})


def _unseen(config: ModelConfig) -> str:
    """Options that change what the model computes and that its tensors do not show, "" if all are usual."""
    if isinstance(config, ConvNeXtConfig):
        return ""
    usual = {"norm_layer": ("layernormbf16", "rmsnorm"), "pos_embed_rope_normalize_coords": ("separate",)}
    return ", ".join(
        f"{name} {getattr(config, name)}"
        for name, values in usual.items()
        if getattr(config, name) not in values
    )


def _write_directory(
    checkpoint: Checkpoint, to: Literal["hf", "timm"], draft: Path, max_shard_bytes: int
) -> list[str]:
    draft.mkdir()
    layouts: tuple[Any, ...] = CONVNEXT_LAYOUTS if isinstance(checkpoint.config, ConvNeXtConfig) else LAYOUTS
    layout = next(layout for layout in layouts if layout.name == to)
    tensors: dict[str, Tensor] = layout.from_official(checkpoint.state, checkpoint.config)
    if to == "hf":
        documents = {
            "config.json": hf_config(checkpoint),
            "preprocessor_config.json": hf_preprocessor(checkpoint),
        }
    else:
        documents = {"config.json": timm_config(checkpoint)}
        max_shard_bytes = sum(tensor.nbytes for tensor in tensors.values())  # timm reads no shards
    return [*_write_shards(tensors, draft, max_shard_bytes), *_write_documents(documents, draft)]


def _write_shards(tensors: Mapping[str, Tensor], directory: Path, max_shard_bytes: int) -> list[str]:
    """Write model.safetensors, or numbered shards of at most `max_shard_bytes` and their index."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor.contiguous()
        size += tensor.nbytes
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(shard, directory / name, metadata={"format": "pt"})
    if len(shards) == 1:
        return names
    total = sum(tensor.nbytes for tensor in tensors.values())
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return [*names, *_write_documents({"model.safetensors.index.json": index}, directory)]


def _write_documents(documents: Mapping[str, dict[str, Any]], directory: Path) -> list[str]:
    for name, content in documents.items():
        (directory / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return list(documents)


def _compact(tensor: Tensor) -> Tensor:
    """The tensor in a storage of its own size, because `torch.save` writes whole storages."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.contiguous().clone()


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Raise if `out` exists, unless it may be overwritten and holds only a checkpoint."""
    if not out.exists():
        return
    if not overwrite:
        raise CheckpointError(f"{out} exists already; choose another path or give --overwrite")
    if out.is_dir():
        ours = (".safetensors", ".json")
        foreign = sorted(path.name for path in out.iterdir() if path.is_dir() or path.suffix not in ours)
        if foreign:
            raise CheckpointError(f"{out} holds more than a checkpoint ({foreign[0]}); write elsewhere")
