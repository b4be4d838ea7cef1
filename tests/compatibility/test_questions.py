"""Snippets of the questions and answers (docs/development/seed.md, S58-S62)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.models import vit_large, vit_small
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.train.distributed.activation_checkpointing import DinoViTWithCheckpoint
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.compatibility.snippets import SMALL, draw
from tests.support.images.photographs import pixels
from tests.support.training.toy_training import collated, tiny_training


def test_S58_image_sizes() -> None:
    """A size that is not a multiple of the patch size is rounded down, as published: the rest is cut off."""
    model = DinoVisionTransformer(img_size=384, patch_size=16, **SMALL).eval()
    img = pixels(["coffee"], 512, 512)
    features = model(img)
    assert features.shape == (1, 64)
    x = pixels(["coffee"], 60, 75)
    assert torch.equal(model(x), model(x[..., :48, :64]))


class Classifier(nn.Module):
    def __init__(self, backbone: DinoVisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.embed_dim, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.backbone(x))


def test_S59_freezing() -> None:
    model = Classifier(DinoVisionTransformer(embed_dim=64, depth=10, num_heads=2))
    x = pixels(["coffee"], 32, 48)
    for i in range(8):  # the first eight layers
        for param in model.backbone.blocks[i].parameters():
            param.requires_grad = False
    model(x).sum().backward()
    touched = {
        name.split(".")[2] for name, p in model.named_parameters() if "blocks" in name and p.grad is not None
    }
    assert touched == {"8", "9"}

    model.zero_grad()
    for param in model.backbone.parameters():
        param.requires_grad = False
    model(x).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        "head.weight",
        "head.bias",
    ]

    training = SSLMetaArch(tiny_training()).train()
    for param in training.student.backbone.blocks[0].parameters():
        param.requires_grad = False
    assert not any("blocks.0." in group["name"] for group in training.get_params_groups())


class SketchedCheckpoint(DinoVisionTransformer):
    """S60, as written: its `forward` takes tokens, without patch embedding and RoPE."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        import torch.utils.checkpoint as checkpoint

        for block in self.blocks:
            x = checkpoint.checkpoint(block, x, use_reentrant=False)
        return x


def test_S60_gradient_checkpointing() -> None:
    """The sketch runs on tokens. `DinoViTWithCheckpoint` is the whole model with checkpointed blocks."""
    tokens = draw(2, 7, 64).requires_grad_()
    sketch = SketchedCheckpoint(**SMALL)
    wanted = sketch.blocks[1](sketch.blocks[0](tokens))
    torch.testing.assert_close(sketch(tokens), wanted)

    plain = DinoVisionTransformer(**SMALL)
    model = DinoViTWithCheckpoint(**SMALL)
    model.load_state_dict(plain.state_dict())
    x = pixels(["coffee", "china"], 32, 48)
    kept: dict[str, int] = {}
    for name, each in (("plain", plain), ("recomputed", model)):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t
        ):
            out = each(x)
        out.sum().backward()
        kept[name] = sum(sizes)
    torch.testing.assert_close(model(x), plain(x))
    for (name, got), wanted in zip(model.named_parameters(), plain.parameters(), strict=True):
        if name != "mask_token":
            torch.testing.assert_close(got.grad, wanted.grad)
    assert kept["recomputed"] < kept["plain"] / 2


def test_S61_a_smaller_model_and_batch() -> None:
    count = [sum(p.numel() for p in build(device="meta").parameters()) for build in (vit_small, vit_large)]
    assert count[0] < count[1] / 10
    model = SSLMetaArch(tiny_training("train.batch_size_per_gpu=2")).train()
    loss, metrics = model.forward_backward(collated(images=2), teacher_temp=0.04)
    assert loss.isfinite()
    assert metrics["local_batch_size"] == 2


def test_S62_saving_and_loading(tmp_path: Path) -> None:
    model, again = (Classifier(DinoVisionTransformer(**SMALL)) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, epoch = pixels(["coffee"], 32, 48), 3

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    step(model, optimizer)
    torch.save(
        {
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "epoch": epoch,
        },
        tmp_path / "checkpoint.pth",
    )
    checkpoint = torch.load(tmp_path / "checkpoint.pth")
    again.load_state_dict(checkpoint["model_state_dict"])
    optimizer_again = torch.optim.AdamW(again.parameters(), lr=1e-3)
    optimizer_again.load_state_dict(checkpoint["optimizer_state_dict"])
    epoch = checkpoint["epoch"]
    assert epoch == 3
    for each, stepper in ((model, optimizer), (again, optimizer_again)):
        step(each, stepper)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
