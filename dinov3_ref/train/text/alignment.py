"""`TextAlignment`: dino.txt around a frozen backbone, and its loss (docs/spec.md 5.8).

Trained are the vision head, the text tower and the scale of the cosines; the backbone is read from a file and
stays. Rates, clipping and precision are those of the other trainings.

Shapes: B images of this rank, N tokens of a caption, S side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints import Checkpoint, build_model, load_checkpoint
from dinov3_ref.errors import ConfigError
from dinov3_ref.loss import clip_loss
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.text import DINOTxt, DinoTxtConfig, build_dinotxt
from dinov3_ref.train.networks.trainable import Trainable
from dinov3_ref.train.param_groups import Group

MODEL = "dinotxt"  # name of the only module of the student
ALIGN = 64  # the FFN width of a vision head is a multiple of it (docs/spec.md 5.8)


class TextAlignment(Trainable):
    """The model of `config.text`, with its backbone. Raises `ConfigError`, `CheckpointError`."""

    def __init__(self, config: Any, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        self.checkpoint = load_backbone(config)
        backbone = build_model(self.checkpoint)
        assert isinstance(backbone, DinoVisionTransformer)
        text = config.text
        model = build_dinotxt(
            backbone,
            sizes_of(config, self.checkpoint),
            drop_path=text.drop_path_rate,
            dropout_prob=text.dropout,
        )
        model.init_weights()
        model.visual_model.backbone.requires_grad_(False)
        self.student = torch.nn.ModuleDict({MODEL: model}).to(device)
        self.log_limit = math.log(text.max_logit_scale)

    @property
    def model(self) -> DINOTxt:
        found = self.student[MODEL]
        assert isinstance(found, DINOTxt)
        return found

    def is_stored(self, name: str) -> bool:
        return not name.startswith(f"student.{MODEL}.visual_model.backbone.")

    def train(self, mode: bool = True) -> TextAlignment:
        """Set the mode of what is trained; the backbone always stays in evaluation mode."""
        super().train(mode)
        self.model.visual_model.backbone.eval()
        return self

    def get_params_groups(self) -> list[Group]:
        """One group per parameter that is trained; norms, biases, gammas and the scale do not decay."""
        return [
            {
                "name": name,
                "params": parameter,
                "is_last_layer": False,
                "lr_multiplier": 1.0,
                "wd_multiplier": float(parameter.ndim > 1),
            }
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        ]

    def forward_loss(
        self, data: Mapping[str, Any], *, teacher_temp: float, iteration: int = 0
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The CLIP loss of {"images": [B,3,S,S], "tokens": [B,N]}, over all ranks; and metrics."""
        device = self.model.logit_scale.device
        images, tokens = (data[name].to(device, non_blocking=True) for name in ("images", "tokens"))
        # attention is causal: what follows the longest caption of the batch has no effect
        longest = int((tokens != 0).sum(dim=1).max())
        image_features, text_features, scale, *_ = self.student[MODEL](images, tokens[:, :longest])
        loss, metrics = clip_loss(image_features, text_features, scale)
        return loss, {**metrics, "logit_scale": scale.detach().squeeze()}

    forward = forward_loss  # what DistributedDataParallel calls

    @torch.no_grad()
    def after_step(self, iteration: int, momentum: float) -> None:
        """Keep the logarithm of the scale between 0 and that of `text.max_logit_scale`."""
        self.model.logit_scale.clamp_(0.0, self.log_limit)


def load_backbone(config: Any) -> Checkpoint:
    """The checkpoint of `config.text.backbone`.

    Raises `ConfigError` for a ConvNeXt, for images that do not divide into its patches, and for another
    normalisation of the images than the one that it was trained with.
    """
    checkpoint = load_checkpoint(config.text.backbone)
    if not isinstance(checkpoint.config, ViTConfig):
        raise ConfigError(f"text.backbone is a {checkpoint.arch}; wanted a ViT: the head reads its tokens")
    side, patch = config.crops.global_crops_size, checkpoint.config.patch_size
    if not isinstance(side, int) or side % patch:
        raise ConfigError(f"crops.global_crops_size is {side}; wanted one number, a multiple of {patch}")
    for key, known in (("rgb_mean", checkpoint.mean), ("rgb_std", checkpoint.std)):
        given = tuple(config.crops[key])
        if known is not None and given != tuple(known):
            raise ConfigError(
                f"crops.{key} is {list(given)}, the backbone was trained with {list(known)}; set "
                f"crops.{key}={list(known)}"
            )
    return checkpoint


def sizes_of(config: Any, checkpoint: Checkpoint) -> DinoTxtConfig:
    """Sizes of the vision head and the text tower."""
    text, width = config.text, checkpoint.config.embed_dim
    hidden = int(4 * width * 2 / 3)
    return DinoTxtConfig(
        vision_dim=width,
        vision_depth=text.head_depth,
        vision_ffn=hidden + -hidden % ALIGN,
        text_dim=text.dim,
        text_depth=text.depth,
        text_ffn=4 * text.dim,
        vocab_size=text.vocab_size,
        context_length=text.context_length,
        embed_dim=2 * width,
    )
