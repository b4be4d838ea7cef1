"""Write a fine-tuned model: one folder that `dinodeploy export --weights FOLDER` takes.

    model.safetensors    the backbone in the official layout, LoRA merged, and the head as `head.*`
    config.json          options of the model, mean and std of its images, what the head is
    adapter/             of LoRA: the adapter in PEFT's format, and the head as head.safetensors, for
                         `dinodeploy export --weights BASE --adapter ADAPTER --head ADAPTER/head.safetensors`

Merging is that of an export with --adapter (`checkpoints/adapters/merge.py`), so both give the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dinov3_ref.adapt.networks import FineTuned
from dinov3_ref.adapt.peft_folder import write_adapter
from dinov3_ref.atomic import replacing
from dinov3_ref.checkpoints import META_LICENCE, Checkpoint, normalization
from dinov3_ref.checkpoints.adapters.merge import merge_adapter
from dinov3_ref.checkpoints.adapters.read import read_adapter
from dinov3_ref.checkpoints.files import MODEL_CONFIG, write_safetensors
from dinov3_ref.checkpoints.layouts.convnext import repeat_norm
from dinov3_ref.heads.beside import HEAD_PREFIX
from dinov3_ref.heads.files import METADATA_KEY, describe_head, save_head, stored_tensors
from dinov3_ref.models.released import find_released

ADAPTER, HEAD_FILE = "adapter", "head.safetensors"
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_result(
    networks: FineTuned, checkpoint: Checkpoint, folder: Path, trained: Mapping[str, Any], licence: str
) -> None:
    """Write the model into `folder`. trained: facts for the head's metadata, such as scores."""
    state: Mapping[str, Tensor]
    if networks.options.lora is not None:
        adapter = folder / ADAPTER
        released = find_released(checkpoint.arch, checkpoint.dataset) if checkpoint.dataset else None
        base = released.hf_repo or "" if released is not None else ""
        write_adapter(networks.backbone, networks.options.lora_options(), adapter, base)
        read = read_adapter(adapter)
        save_head(
            networks.head,
            adapter / HEAD_FILE,
            backbone_sha256=checkpoint.sha256,
            licence=licence,
            trained={**trained, "adapter_sha256": read.sha256},
        )
        merged = merge_adapter(replace(checkpoint, beside={}), read)
        state = {name: tensor.float() for name, tensor in merged.state.items()}
    else:
        state = {name: tensor.detach().cpu() for name, tensor in networks.backbone.state_dict().items()}
    of_head = {f"{HEAD_PREFIX}{name}": t.detach().cpu() for name, t in stored_tensors(networks.head).items()}
    tensors = {name: tensor.contiguous() for name, tensor in {**repeat_norm(state), **of_head}.items()}
    with replacing(folder / WEIGHTS) as draft:
        write_safetensors(tensors, draft, {"format": "pt"})
    mean, std = normalization(checkpoint)
    described = {
        "trained_by": "dinov3_ref",
        MODEL_CONFIG: {**checkpoint.config.kwargs(), "drop_path_rate": 0.0},
        "pretrained_cfg": {"mean": list(mean), "std": list(std), **licence_of(checkpoint)},
        METADATA_KEY: describe_head(networks.head, licence=licence, trained=trained),
    }
    with replacing(folder / CONFIG) as draft:
        draft.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def licence_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The licence of the base, which the trained model keeps, where it is known."""
    known = checkpoint.licence or (META_LICENCE if checkpoint.dataset else None)
    return {} if known is None else {"license": known}
