"""`FineTuned`: a backbone of which some is trained, and a head; its loss and its parameter groups.

Trained are LoRA's matrices, or the last blocks with the norms after them, and always the head. Frozen
blocks before the first trained one keep no activations. Drop path acts on trained blocks. RoPE's augmentation
is off, and its table stays in fp32: only products run in the type of autocast. The head computes in fp32, as
it does in an engine.

Shapes: B images, H W pixels; targets as in `objectives.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.adapt.lora import add_lora
from dinov3_ref.adapt.objectives import Objective
from dinov3_ref.adapt.options import FineTuneOptions
from dinov3_ref.checkpoints import Checkpoint, build_model
from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import Head, named_outputs
from dinov3_ref.models import Backbone, ConvNeXt, ViTConfig
from dinov3_ref.train.networks.trainable import Trainable
from dinov3_ref.train.param_groups import Group, get_params_groups_with_decay

TOKENS = ("cls_token", "storage_tokens", "mask_token")  # do not decay here, unlike in pre-training
EMBEDDING = ("patch_embed", "cls_token", "storage_tokens")


class FineTuned(Trainable):
    """The networks of a fine-tuning. Raises `ConfigError` for options that do not fit the backbone."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: Head,
        objective: Objective,
        options: FineTuneOptions,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.options, self.objective = options, objective
        backbone = own_copy(checkpoint)
        if options.lora is not None:
            add_lora(backbone, options.lora_options())
            self.trained_blocks = [*_blocks(backbone)]
        else:
            assert options.unfreeze is not None
            self.trained_blocks = unfreeze(backbone, options.unfreeze)
        _set_drop_path(backbone, self.trained_blocks, options.drop_path)
        self.student = nn.ModuleDict({"backbone": backbone, "head": head}).to(device)

    @property
    def backbone(self) -> Backbone:
        return self.student["backbone"]  # type: ignore[return-value]

    @property
    def head(self) -> Head:
        return self.student["head"]  # type: ignore[return-value]

    def train(self, mode: bool = True) -> FineTuned:
        """Set the mode of what is trained; the rest of the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        for block in self.trained_blocks:
            block.train(mode)
        return self

    def predict(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] -> the head's output in fp32."""
        found = named_outputs(self.backbone, images, self.head.inputs)
        with torch.autocast(images.device.type, enabled=False):
            (output,) = self.head(*(found[name].float() for name in self.head.inputs))
        return output

    def forward_loss(
        self, data: Mapping[str, Any], *, teacher_temp: float, iteration: int = 0
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss of {"images": [B,3,H,W], "targets"}, a scalar. No other metrics."""
        device = next(self.head.parameters()).device
        images, targets = (data[name].to(device, non_blocking=True) for name in ("images", "targets"))
        output = self.predict(images)
        with torch.autocast(device.type, enabled=False):
            return self.objective.loss(output, targets), {}

    forward = forward_loss

    def get_params_groups(self) -> list[Group]:
        """One group per trained parameter: layer-wise rates of unfrozen blocks, and the head's own rate.

        Norms, biases, LayerScale and tokens do not decay.
        """
        options = self.options
        decay = 1.0 if options.lora is not None else options.layer_decay
        groups = get_params_groups_with_decay(self.backbone, decay, prefix="backbone.")
        last = max((group["lr_multiplier"] for group in groups), default=1.0)
        for group in groups:
            group["lr_multiplier"] /= last  # lr is the rate of the last block or of LoRA
            if any(token in group["name"] for token in TOKENS):
                group["wd_multiplier"] = 0.0
        of_head = get_params_groups_with_decay(self.head, prefix="head.")
        for group in of_head:
            group["lr_multiplier"] = options.head_lr / options.learning_rate
        return groups + of_head

    def is_stored(self, name: str) -> bool:
        return name in self.trained_names()

    def trained_names(self) -> set[str]:
        """Names of all tensors that training changes."""
        parameters = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return parameters | {f"student.head.{name}" for name in self.head.state_dict()}

    def trained_state(self) -> dict[str, Tensor]:
        """A copy of all tensors that training changes, on the CPU."""
        wanted = self.trained_names()
        return {name: t.detach().cpu().clone() for name, t in self.state_dict().items() if name in wanted}


def own_copy(checkpoint: Checkpoint) -> Backbone:
    """The model with tensors of its own (a file's are read-only), and RoPE in fp32."""
    if isinstance(checkpoint.config, ViTConfig):
        config = replace(checkpoint.config, pos_embed_rope_dtype="fp32", drop_path_rate=0.0)
        checkpoint = replace(checkpoint, config=config)
    model = build_model(checkpoint)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def unfreeze(backbone: Backbone, count: int) -> list[nn.Module]:
    """Train the last `count` blocks (stages of a ConvNeXt) and the norms after them; return these blocks.

    With all blocks of a ViT also the patch embedding and the tokens. Raises `ConfigError` for too many.
    """
    backbone.requires_grad_(False)
    blocks = _blocks(backbone)
    if count > len(blocks):
        kind = "stages" if isinstance(backbone, ConvNeXt) else "blocks"
        raise ConfigError(f"--unfreeze {count}: the backbone has {len(blocks)} {kind}; wanted at most that")
    chosen = blocks[len(blocks) - count :]
    for block in chosen:
        block.requires_grad_(True)
    if count:
        for name, parameter in backbone.named_parameters():
            is_norm = name.startswith(("norm.", "cls_norm."))
            is_embedding = count == len(blocks) and name.startswith(EMBEDDING)
            if is_norm or is_embedding:
                parameter.requires_grad_(True)
    return chosen


def _blocks(backbone: Backbone) -> list[nn.Module]:
    """The blocks of a ViT; of a ConvNeXt its stages, each with the downsampling before it."""
    if isinstance(backbone, ConvNeXt):
        pairs = zip(backbone.downsample_layers, backbone.stages, strict=True)
        return [nn.ModuleList(pair) for pair in pairs]
    return list(backbone.blocks)


def _set_drop_path(backbone: Backbone, trained: list[nn.Module], rate: float) -> None:
    if isinstance(backbone, ConvNeXt):
        if rate:
            raise ConfigError(f"drop_path is {rate:g}; a ConvNeXt has no stochastic depth: leave it out")
        return
    for block in backbone.blocks:
        block.sample_drop_ratio = rate if block in trained else 0.0  # type: ignore[assignment]
