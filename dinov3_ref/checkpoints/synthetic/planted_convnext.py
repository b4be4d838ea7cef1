"""Random ConvNeXt checkpoints with planted pathologies, like those of `planted.py` for ViTs.

No activations inside real ConvNeXts are published, so the numbers are those of ViTs.

    massive channels   four residual channels of one stage hold ±155,693 ("early": the third stage) or ±87,501
                       ("late": the last) from its first block to its last, which removes them; depthwise
                       convolutions read them, and pass a little on to the norms
    skewed ranges      LayerNorm gains from 2^-5 to 2^5, and every eighth hidden unit 32 times larger
    LayerScale         from 1.5e-5 to 2, spread by octaves

It is well conditioned: massive channels hold only a bias that is exact in fp32, so removing them is exact;
gains are powers of two that the next layer undoes.

Shapes: C channels of a stage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3_ref.checkpoints.synthetic.random import generator_of
from dinov3_ref.errors import ConfigError
from dinov3_ref.models.config import ConvNeXtConfig

State = dict[str, Tensor]

STAGE_OF = {"early": 2, "late": 3}  # pathology -> index of the stage
MIN_DEPTH = 3  # blocks in that stage: one that adds the channels, one between, one that removes them
SIGNS = (1.0, -1.0, 1.0, -1.0)  # they sum to zero, so LayerNorm's mean stays precise
LEAK = 2.0**-14  # of a massive channel, through its depthwise kernel: fp16's smallest normal number
GAIN_OCTAVES = 5
LOUD_EVERY, LOUD = 8, 32.0  # hidden units
LAYERSCALE_TOP, LAYERSCALE_OCTAVES = 2.0, 17


def plant_convnext(state: State, config: ConvNeXtConfig, seed: int, pathology: str, peak: float) -> None:
    """Edit a random state dict in place. Raises `ConfigError` for a stage with too few blocks."""
    stage = STAGE_OF[pathology]
    if config.depths[stage] < MIN_DEPTH:
        raise ConfigError(
            f"stage {stage} has {config.depths[stage]} blocks; massive channels need {MIN_DEPTH} or more"
        )
    for index, depth in enumerate(config.depths):
        for block in range(depth):
            path = f"stages.{index}.{block}"
            _layer_scale(state, path, seed)
            _loud_hidden_units(state, path)
            _skewed_gains(state, path, seed)
    _massive_channels(state, config, stage, seed, peak)


def _layer_scale(state: State, path: str, seed: int) -> None:
    """Draw LayerScale gains by octaves, most near the top; does nothing without LayerScale."""
    if f"{path}.gamma" not in state:
        return
    powers = torch.tensor([LAYERSCALE_TOP * 2.0**-i for i in range(LAYERSCALE_OCTAVES + 1)])
    draws = torch.randint(
        0, 256, state[f"{path}.gamma"].shape, generator=generator_of(f"{seed}/planted/{path}.gamma")
    )
    state[f"{path}.gamma"] = powers[draws * draws * (LAYERSCALE_OCTAVES + 1) // (256 * 256)]


def _loud_hidden_units(state: State, path: str) -> None:
    """Scale some hidden units up, and the weights that read them down."""
    for end in ("weight", "bias"):
        state[f"{path}.pwconv1.{end}"][1::LOUD_EVERY] *= LOUD
    state[f"{path}.pwconv2.weight"][:, 1::LOUD_EVERY] /= LOUD


def _skewed_gains(state: State, path: str, seed: int) -> None:
    """A random gain per channel, undone in the columns of the next layer: powers of two, so exact."""
    shape = state[f"{path}.norm.weight"].shape
    octaves = torch.randint(
        -GAIN_OCTAVES, GAIN_OCTAVES + 1, shape, generator=generator_of(f"{seed}/planted/{path}.norm")
    )
    gains = torch.exp2(octaves.to(torch.float32))
    for end in ("weight", "bias"):
        state[f"{path}.norm.{end}"].mul_(gains)
    state[f"{path}.pwconv1.weight"].div_(gains)


def _massive_channels(state: State, config: ConvNeXtConfig, stage: int, seed: int, peak: float) -> None:
    """Empty some channels of a stage; its first block adds a constant to them, its last removes it."""
    order = torch.randperm(config.dims[stage], generator=generator_of(f"{seed}/planted/channels"))
    channels = order[: len(SIGNS)].tolist()
    for end in ("weight", "bias"):
        state[f"downsample_layers.{stage}.1.{end}"][channels] = 0.0
    last = config.depths[stage] - 1
    for block in range(config.depths[stage]):
        path = f"stages.{stage}.{block}"
        for end in ("weight", "bias"):
            state[f"{path}.pwconv2.{end}"][channels] = 0.0
        kernel = state[f"{path}.dwconv.weight"]
        middle = kernel.shape[-1] // 2
        kernel[channels] = 0.0
        kernel[channels, :, middle, middle] = LEAK
        if f"{path}.gamma" in state:
            state[f"{path}.gamma"][channels] = 1.0
        direction = {0: 1.0, last: -1.0}.get(block, 0.0)
        state[f"{path}.pwconv2.bias"][channels] = direction * peak * torch.tensor(SIGNS)
