"""Random checkpoints that reveal a wrong model: official layout, complete, identical on every machine.

`init_weights` is not suitable for tests: its LayerScale of 1e-5 makes every block nearly the identity, so a
broken block would not be noticed. Here blocks change the residual stream, attention is neither uniform nor
one-hot, every norm, bias and token has an effect, and k has a bias that its mask must remove.

Values are drawn as integers and scaled by one multiplication, which IEEE arithmetic rounds the same
everywhere (normal deviates would depend on the machine's vector library). Each tensor has its own generator,
seeded by (seed, key), so order and depth do not matter.
"""

from __future__ import annotations

import hashlib
import json
import math

import torch
from torch import Tensor

from dinov3_ref.checkpoints.architecture import name_architecture
from dinov3_ref.checkpoints.checkpoint import Checkpoint
from dinov3_ref.checkpoints.layouts.convnext import TWICE
from dinov3_ref.checkpoints.layouts.official import PERIODS, key_mask, rope_periods
from dinov3_ref.checkpoints.tensor_shapes import Shape, expected_shapes
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig, ViTConfig
from dinov3_ref.models.released import find_released, get_architecture

RECIPE = 1  # part of the hash: raise it when the values below change
LEVELS = 1 << 15  # draws are integers in [-LEVELS, LEVELS)

# (end of the official key, centre, half-width) of a uniform draw; the first match counts. Weights of linear
# maps are not listed, because theirs depends on fan-in.
RANGES: tuple[tuple[str, float, float], ...] = (
    ("cls_token", 0.0, 2.0),
    ("storage_tokens", 0.0, 2.0),
    ("mask_token", 0.0, 1.0),
    ("gamma", 0.5, 0.4),
    ("norm1.weight", 1.0, 0.3),
    ("norm2.weight", 1.0, 0.3),
    ("norm.weight", 1.0, 0.3),
    ("qkv.bias", 0.0, 0.5),
    ("bias", 0.0, 0.2),
)
LN_GAIN = (1.0, 0.3)  # of a norm without "norm" in its key: in a ConvNeXt's downsampling
WEIGHT_GAIN = 1.2  # std of a linear map's output for unit input: logits of std 1.4, short of one-hot


def random_checkpoint(arch_or_config: str | ModelConfig, seed: int = 0) -> Checkpoint:
    """A random checkpoint of an architecture (by any name of a released model) or a configuration.

    `sha256` is the hash of configuration and seed, which determine every value.
    """
    config: ModelConfig
    if isinstance(arch_or_config, ViTConfig | ConvNeXtConfig):
        config = arch_or_config
    else:
        row = find_released(arch_or_config)
        config = row.config if row else get_architecture(arch_or_config)
    arch, _ = name_architecture(config, biases_may_lack=False)
    state = {key: random_tensor(key, shape, config, seed) for key, shape in expected_shapes(config).items()}
    state.update({key: state[original] for key, original in TWICE.items() if key in state})
    recipe = json.dumps({"recipe": RECIPE, "seed": seed, "config": config.kwargs()}, sort_keys=True)
    return Checkpoint(
        config=config,
        arch=arch,
        state=state,
        layout="random",
        dataset=None,
        source=f"random:{arch}:seed{seed}",
        sha256=hashlib.sha256(recipe.encode()).hexdigest(),
        notes=("random weights: features mean nothing",),
    )


def random_tensor(key: str, shape: Shape, config: ModelConfig, seed: int) -> Tensor:
    """One tensor of the checkpoint, fp32; depends only on the arguments."""
    if isinstance(config, ViTConfig):
        if key == PERIODS:
            return rope_periods(config, "bf16")
        if key.endswith("bias_mask"):
            return key_mask(config.embed_dim)
    centre, half_width = _range(key, shape)
    tensor = torch.empty(shape).random_(-LEVELS, LEVELS, generator=generator_of(f"{seed}/{key}"))
    tensor.mul_(half_width / LEVELS)
    return tensor.add_(centre) if centre else tensor


def generator_of(name: str) -> torch.Generator:
    """A generator seeded by a name."""
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _range(key: str, shape: Shape) -> tuple[float, float]:
    for end, centre, half_width in RANGES:
        if key.endswith(end):
            return centre, half_width
    if len(shape) == 1:
        return LN_GAIN
    fan_in = math.prod(shape[1:])
    return 0.0, WEIGHT_GAIN * math.sqrt(3.0 / fan_in)  # a uniform draw of half-width a has std a/√3
