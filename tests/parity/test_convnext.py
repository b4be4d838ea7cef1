"""The reference ConvNeXt against transformers' and timm's, and against itself in float64.

Lively weights reach the libraries through our own converters; photographs at three sizes. Limits as in
`tolerances.py`, measured errors beside them (x86-64 with AVX2, torch 2.13, transformers 5.23, timm 1.0.31).
Shapes: B photographs, H W pixels, D embed_dim, P patches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import Checkpoint, build_model, random_checkpoint, save_checkpoint
from dinov3_ref.models.config import ConvNeXtConfig
from dinov3_ref.torchvision_shim import import_torchvision
from tests.parity.implementations import PHOTOGRAPHS, SIZES, relative_errors
from tests.parity.tolerances import ACCEPTED, Tolerance
from tests.support.images.photographs import pixels

Run = Callable[[Tensor], dict[str, Tensor]]  # pixels [B,3,H,W] -> cls [B,D], patch [B,P,D]

# Every stage at its own width, in few blocks; and ConvNeXt-T as it is.
MODELS: dict[str, ConvNeXtConfig | str] = {
    "shallow": ConvNeXtConfig((1, 1, 2, 1), (96, 192, 384, 768)),
    "convnext_tiny": "convnext_tiny",
}
TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("transformers", "shallow"): Tolerance(4e-6, 1.3e-6),
    ("timm", "shallow"): Tolerance(4e-6, 1.3e-6),
    ("float64", "shallow"): Tolerance(3e-6, 1.0e-6),
    ("transformers", "convnext_tiny"): Tolerance(4e-6, 1.3e-6),
    ("timm", "convnext_tiny"): Tolerance(4e-6, 1.3e-6),
}


@cache
def checkpoint_of(model: str) -> Checkpoint:
    return random_checkpoint(MODELS[model])


def ours(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Run:
    model = build_model(checkpoint, dtype)

    def run(x_BCHW: Tensor) -> dict[str, Tensor]:
        features = model.forward_features(x_BCHW.to(dtype))
        return {"cls": features["x_norm_clstoken"], "patch": features["x_norm_patchtokens"]}

    return run


def in_transformers(checkpoint: Checkpoint) -> Run:
    """`AutoModel` on converted weights: nothing missing, nothing left over."""
    import_torchvision()
    from transformers import AutoModel

    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(checkpoint, "hf", Path(directory) / "hf")
        model, report = AutoModel.from_pretrained(Path(directory) / "hf", output_loading_info=True)
    assert type(model).__name__ == "DINOv3ConvNextModel"
    assert not report["missing_keys"], report
    assert not report["unexpected_keys"], report

    def run(x_BCHW: Tensor) -> dict[str, Tensor]:
        out = model.eval()(x_BCHW)
        assert torch.equal(out.pooler_output, out.last_hidden_state[:, 0])
        return {"cls": out.pooler_output, "patch": out.last_hidden_state[:, 1:]}

    return run


def in_timm(checkpoint: Checkpoint) -> Run:
    """timm's own loader on the converted directory; it norms the pooled map alone, patches by our hand."""
    import_torchvision()
    import timm

    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(checkpoint, "timm", Path(directory) / "timm")
        model: Any = timm.create_model(f"local-dir:{directory}/timm", pretrained=True).eval()

    def run(x_BCHW: Tensor) -> dict[str, Tensor]:
        x_BChw = model.forward_features(x_BCHW)
        return {"cls": model(x_BCHW), "patch": model.head.norm(x_BChw).flatten(2).transpose(1, 2)}

    return run


REFERENCES: dict[str, Callable[[Checkpoint], Run]] = {
    "transformers": in_transformers,
    "timm": in_timm,
    "float64": lambda checkpoint: ours(checkpoint, torch.float64),
}


def photographs(model: str, size: tuple[int, int]) -> Tensor:
    return pixels(PHOTOGRAPHS if model == "shallow" else PHOTOGRAPHS[:1], *size)


@pytest.mark.parametrize(
    ("reference", "model"),
    [pytest.param(*key, marks=[pytest.mark.slow] * (key[1] == "convnext_tiny")) for key in TOLERANCES],
)
def test_tokens_agree(reference: str, model: str) -> None:
    checkpoint = checkpoint_of(model)
    got, wanted = ours(checkpoint), REFERENCES[reference](checkpoint)
    worst = 0.0
    with torch.no_grad():
        for size in SIZES:
            x_BCHW = photographs(model, size)
            worst = max(worst, *relative_errors(got(x_BCHW), wanted(x_BCHW)).values())
    print("MEASURED", reference, model, f"{worst:.1e}")
    limit = TOLERANCES[reference, model].limit
    assert worst <= limit <= ACCEPTED


# ---- the comparison sees faults -----------------------------------------------------------------


def skip_a_block(model: Any) -> None:
    model.stages[2][1] = nn.Identity()


def leave_a_gamma_out(model: Any) -> None:
    model.stages[1][0].gamma = None


def take_another_eps(model: Any) -> None:
    """The faintest: the ViTs' 1e-5 where ConvNeXt has 1e-6."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def take_another_gelu(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"


def flip_a_kernel(model: Any) -> None:
    model.stages[2][0].dwconv.weight.data = model.stages[2][0].dwconv.weight.data.transpose(2, 3).contiguous()


def leave_the_last_norm_out(model: Any) -> None:
    model.norm = nn.Identity()


FAULTS = (
    skip_a_block,
    leave_a_gamma_out,
    take_another_eps,
    take_another_gelu,
    flip_a_kernel,
    leave_the_last_norm_out,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_seen(fault: Callable[[Any], None]) -> None:
    checkpoint = checkpoint_of("shallow")
    model: Any = build_model(checkpoint)
    fault(model)
    x_BCHW = pixels(["chelsea"], 96, 160)
    with torch.no_grad():
        features, wanted = model.forward_features(x_BCHW), ours(checkpoint)(x_BCHW)
    broken = {"cls": features["x_norm_clstoken"], "patch": features["x_norm_patchtokens"]}
    errors = relative_errors(broken, wanted)
    print("FAULT", errors)
    assert max(errors.values()) > max(tolerance.limit for tolerance in TOLERANCES.values())
