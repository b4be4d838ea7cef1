"""Small whole models: a backbone of ours, or another library's, with a decoder of convolutions."""

from __future__ import annotations

from typing import Any

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


# ---- other libraries' backbones: 64 wide, lively, with a decoder of the user's own ----

WIDTH, PREFIX = 64, 5  # CLS and four register tokens


def restless(module: nn.Module, seed: int = 0) -> Any:
    """Weights with which every layer and position counts: random vectors on top of what the library draws."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data + noise * (0.2 if parameter.dim() == 1 else 0.08)
    return module.eval()


def transformers_vit(kind: str = "DINOv3ViTModel", **config: Any) -> Any:
    """transformers' ViT, as AutoModel makes it, or its backbone."""
    from dinov3_ref.torchvision_shim import import_torchvision

    import_torchvision()
    import transformers

    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_register_tokens": PREFIX - 1,
        "layerscale_value": 0.7,
    }
    made = transformers.DINOv3ViTConfig(**{**shape, **config})
    if kind == "DINOv3ViTModel":
        return restless(transformers.AutoModel.from_config(made))
    return restless(getattr(transformers, kind)(made))


def transformers_convnext(kind: str = "DINOv3ConvNextModel", **config: Any) -> Any:
    from dinov3_ref.torchvision_shim import import_torchvision

    import_torchvision()
    import transformers

    made = transformers.DINOv3ConvNextConfig(hidden_sizes=[16, 24, 32, WIDTH], depths=[1, 1, 2, 1], **config)
    return restless(getattr(transformers, kind)(made))


def timm_model(name: str = "vit_small_patch16_dinov3_qkvb", **options: Any) -> Any:
    """timm's ViT with DINOv3's RoPE, or its ConvNeXt."""
    from dinov3_ref.torchvision_shim import import_torchvision

    import_torchvision()
    import timm

    shape: dict[str, Any] = {"embed_dim": WIDTH, "depth": 3, "num_heads": 2}
    if name.startswith("convnext"):
        shape = {"dims": (16, 24, 32, WIDTH), "depths": (1, 1, 2, 1)}
    if "features_only" not in options:
        shape["num_classes"] = 0
    return restless(timm.create_model(name, pretrained=False, **{**shape, **options}))


class AroundTransformers(nn.Module):
    """A segmenter around transformers' model: pixels [B,3,H,W] -> masks [B,5,H,W] and score [B,1]."""

    def __init__(self, encoder: Any = None) -> None:
        super().__init__()
        self.encoder = encoder or transformers_vit()
        self.decoder = decoder(WIDTH)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.encoder(x).last_hidden_state[:, PREFIX:]
        grid = x.shape[2] // 16, x.shape[3] // 16
        masks = self.decoder(tokens.transpose(1, 2).reshape(x.shape[0], WIDTH, *grid))
        masks = F.interpolate(masks, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"masks": masks, "score": tokens.mean((1, 2))[:, None]}


class AroundTimm(nn.Module):
    """A decoder on timm's intermediate features: pixels [B,3,H,W] -> [B,5,H/8,W/8]."""

    def __init__(self, encoder: Any = None) -> None:
        super().__init__()
        self.encoder = encoder or timm_model()
        self.decoder = decoder(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        (features,) = self.encoder.forward_intermediates(x, indices=[2], intermediates_only=True)
        made: Tensor = self.decoder(features)
        return made


class Called(nn.Module):
    """A backbone and how it is called: what comes back are tensors in a tuple."""

    def __init__(self, net: Any, call: Any) -> None:
        super().__init__()
        self.net, self.call = net, call

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.call(self.net, x))


# name -> (makes the backbone, how it is used)
USES: dict[str, tuple[Any, Any]] = {
    "transformers model": (
        transformers_vit,
        lambda net, x: (net(x).last_hidden_state, net(x).pooler_output),
    ),
    "transformers hidden states": (
        transformers_vit,
        lambda net, x: net(pixel_values=x, output_hidden_states=True).hidden_states,
    ),
    "transformers backbone": (
        lambda: transformers_vit("DINOv3ViTBackbone", out_indices=[1, 3]),
        lambda net, x: net(x).feature_maps,
    ),
    "transformers gated": (
        lambda: transformers_vit(use_gated_mlp=True, hidden_act="silu"),
        lambda net, x: (net(x)[0],),
    ),
    "transformers ConvNeXt": (
        transformers_convnext,
        lambda net, x: (net(x).last_hidden_state, *net(x, output_hidden_states=True).hidden_states[1:]),
    ),
    "transformers ConvNeXt backbone": (
        lambda: transformers_convnext("DINOv3ConvNextBackbone", out_indices=[2, 4]),
        lambda net, x: net(x).feature_maps,
    ),
    "timm": (
        lambda: timm_model(num_classes=7),
        lambda net, x: (net(x), net.forward_features(x)),
    ),
    "timm features": (
        lambda: timm_model("vit_small_patch16_dinov3", features_only=True, out_indices=[0, 1]),
        lambda net, x: net(x),
    ),
    "timm ConvNeXt": (
        lambda: timm_model("convnext_tiny", num_classes=5),
        lambda net, x: (net(x), *net.forward_intermediates(x, intermediates_only=True)),
    ),
    "timm ConvNeXt features": (
        lambda: timm_model("convnext_tiny", features_only=True),
        lambda net, x: net(x),
    ),
}


def in_use(name: str) -> Called:
    make, call = USES[name]
    return Called(make(), call).eval()
