"""Depth heads against transformers' own implementation of the same decoder, that of CHMv2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import DPTDepth, DPTHead, FeaturesToDepth, LinearDepth
from dinov3_ref.torchvision_shim import import_torchvision

D, C, WIDTHS, BINS, HIDDEN = 12, 8, (6, 10, 12, 14), 16, 5


def named_like_ours(key: str) -> str:
    for theirs, ours in (
        ("reassemble_stage.layers.", "reassemble_blocks.projects."),
        ("fusion_layers.", "fusion_blocks."),
        ("residual_layer", "res_conv_unit"),
        (".convolution1.", ".conv1.conv."),
        (".convolution2.", ".conv2.conv."),
        (".projection.", ".project.conv." if key.startswith("fusion") else ".conv."),
    ):
        key = key.replace(theirs, ours)
    if key.startswith("convs."):
        return key.replace(".weight", ".conv.weight")
    if ".resize." in key:
        return key.replace(".resize.", ".").replace("projects", "resize_layers")
    return key


@pytest.fixture(scope="module")
def theirs() -> Any:
    import_torchvision()
    from transformers import CHMv2Config
    from transformers.models.chmv2.modeling_chmv2 import CHMv2Head

    torch.manual_seed(0)
    config = CHMv2Config(
        backbone_config={"model_type": "dinov3_vit", "hidden_size": D},
        post_process_channels=list(WIDTHS),
        fusion_hidden_size=C,
        head_hidden_size=HIDDEN,
        number_output_channels=BINS,
        readout_type="ignore",
        min_depth=0.5,
        max_depth=8.0,
    )
    return CHMv2Head(config).eval()


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (8, 8)])
def test_the_decoder_agrees_with_transformers(theirs: Any, grid: tuple[int, int]) -> None:
    """All but the 3x3 projection and its ReLU, which CHMv2 does without: these are applied by hand."""
    torch.manual_seed(1)
    ours = DPTHead(D, C, WIDTHS, BINS, HIDDEN, batchnorm=False, bias=True).eval()
    state = {named_like_ours(key): value for key, value in theirs.state_dict().items()}
    left = ours.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert set(left.missing_keys) == {"project.conv.weight", "project.conv.bias"}
    maps = [torch.randn(2, D, *grid) for _ in range(4)]
    with torch.no_grad():
        fused = theirs.forward_features([(x, x[:, :, 0, 0]) for x in maps], *grid)
        wanted = theirs.conv_depth(torch.relu(ours.project(fused)))
        got = ours(maps)
    torch.testing.assert_close(got, wanted)
    assert got.shape == (2, BINS, *(32 * ((side + 1) // 2) for side in grid))


@pytest.mark.parametrize("bins", ["linear", "log"])
@pytest.mark.parametrize("norm", ["linear", "softmax", "sigmoid"])
def test_bins_agree_with_transformers(theirs: Any, bins: str, norm: str) -> None:
    from transformers.models.chmv2.modeling_chmv2 import CHMv2FeaturesToDepth

    reference = CHMv2FeaturesToDepth(theirs.config)
    reference.bins_strategy, reference.norm_strategy = bins, norm
    x = torch.randn(2, BINS, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FeaturesToDepth(BINS, 0.5, 8.0, bins, norm)(x), reference(x))


def test_one_channel_is_the_depth() -> None:
    x = torch.tensor([[[[-1.0, 2.0]]]])
    assert FeaturesToDepth(1, 0.5, 8.0)(x).tolist() == [[[[0.5, 2.5]]]]


def test_dpt_depth_has_the_size_of_the_image() -> None:
    """Also of an odd grid, where the official map is a patch larger; of an even one it is that map."""
    torch.manual_seed(0)
    head = DPTDepth(D, (0, 1, 2, 3), C, WIDTHS, BINS, HIDDEN, patch_size=16).eval()
    for grid in ((5, 3), (4, 6)):
        maps = [torch.randn(1, *grid, D) for _ in range(4)]
        with torch.no_grad():
            (depth,) = head(*maps)
            official = head.to_depth(head.decoder([x.permute(0, 3, 1, 2) for x in maps]))
        assert depth.shape == (1, 1, 16 * grid[0], 16 * grid[1])
        assert head.inputs == ("layer_0", "layer_1", "layer_2", "layer_3")
        if grid == (4, 6):
            torch.testing.assert_close(depth, official)


def test_linear_depth_by_hand() -> None:
    torch.manual_seed(0)
    head = LinearDepth(D, n_bins=4, min_depth=1.0, max_depth=4.0, patch_size=2).eval()
    x = torch.randn(1, 3, 2, D)
    activations = x @ head.conv.weight[:, :, 0, 0].T
    weights = activations.relu() + 0.1
    depth = (weights / weights.sum(-1, keepdim=True)) @ torch.tensor([1.0, 2.0, 3.0, 4.0])
    (got,) = head(x)
    wanted = torch.nn.functional.interpolate(depth[:, None], scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeaturesToDepth(4, 2.0, 1.0), "depth range 2.0..1.0; wanted 0 < min < max"),
        (lambda: FeaturesToDepth(4, 1.0, 2.0, "cubic"), "bins 'cubic'"),
        (lambda: DPTDepth(D, (0, 1, 2)), "wanted four blocks in ascending order"),
        (lambda: DPTDepth(D, (3, 2, 1, 0)), "ascending"),
    ],
)
def test_bad_depth_heads_are_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
