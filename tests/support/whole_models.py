"""Small whole models: a backbone of ours, or another library's, with a decoder of convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.tasks import LoadedTask, TaskModel
from tests.support.tiny_models import tiny_config

CLASSES = ("sky", "sea", "sand", "tree", "house")


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics of batch norms, biases and gains that no layer is an identity with."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.num_features, generator=generator) * 0.1
            layer.running_var = torch.rand(layer.num_features, generator=generator) + 0.5
            layer.weight.data = torch.rand(layer.num_features, generator=generator) + 0.5
            layer.bias.data = torch.randn(layer.num_features, generator=generator) * 0.1
    return module.eval()


def decoder(width: int, classes: int = len(CLASSES), seed: int = 0) -> nn.Module:
    """A map [B,width,h,w] -> [B,classes,2h,2w]."""
    torch.manual_seed(seed)
    return lively(
        nn.Sequential(
            nn.Conv2d(width, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.GELU(),
            nn.ConvTranspose2d(16, 8, 2, 2),
            nn.Conv2d(8, classes, 1),
        ),
        seed,
    )


class TinySegmenter(TaskModel):
    """A backbone and a decoder: pixels [B,3,H,W] -> segmentation [B,5,H,W]."""

    kind = "tiny_segmenter"

    def __init__(self, **config: int) -> None:
        super().__init__()
        self.task = "segment"
        self.backbone = build_model(random_checkpoint(tiny_config(**config), 0))
        self.decoder = decoder(self.backbone.embed_dim)
        self.outputs = {"segmentation": ("batch", len(CLASSES), "height", "width")}
        self.classes = CLASSES
        self.settings = {"ignored": 255}

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        (features,) = self.backbone.get_intermediate_layers(pixels, n=1, reshape=True)
        logits = self.decoder(features)
        return (F.interpolate(logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False),)


def tiny_task(**config: int) -> LoadedTask:
    """A `TinySegmenter` as if it had been loaded from a file."""
    model = TinySegmenter(**config).eval()
    return LoadedTask(model, "tiny_segmenter", "custom", "tiny.safetensors", "0" * 64, "hf", size=(64, 64))
