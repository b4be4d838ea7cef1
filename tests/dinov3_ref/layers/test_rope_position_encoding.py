"""RoPE's table against float64 loops, and its periods against the literal values of docs/spec.md 2.2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3_ref.layers import RopePositionEmbedding

GRIDS = [(4, 7), (16, 24), (32, 20), (1, 5)]

# docs/spec.md 2.2: 100^(4i/d) rounded to bfloat16, by head_dim d.
PUBLISHED_PERIODS = {
    64: "1 1.3359375 1.78125 2.375 3.15625 4.21875 5.625 7.5 10 13.3125 17.75 23.75 31.625 42.25 56.25 75",
    128: "1 1.15625 1.3359375 1.5390625 1.78125 2.046875 2.375 2.734375 3.15625 3.65625 4.21875 4.875 5.625 "
    "6.5 7.5 8.6875 10 11.5625 13.3125 15.375 17.75 20.5 23.75 27.375 31.625 36.5 42.25 48.75 56.25 65 75 "
    "86.5",
}
BF16_PERIODS = {d: [float(period) for period in text.split()] for d, text in PUBLISHED_PERIODS.items()}


def make(head_dim: int = 64, heads: int = 2, **options: Any) -> RopePositionEmbedding:
    return RopePositionEmbedding(head_dim * heads, num_heads=heads, **options).eval()


def angles_in_float64(
    periods: list[float], H: int, W: int, normalize: str = "separate"
) -> NDArray[np.float64]:
    """[H*W, d] by the words of docs/spec.md 2.2, one number at a time."""
    span_h, span_w = {"separate": (H, W), "max": (max(H, W),) * 2, "min": (min(H, W),) * 2}[normalize]
    rows = []
    for i in range(H):
        for j in range(W):
            y, x = 2 * (i + 0.5) / span_h - 1, 2 * (j + 0.5) / span_w - 1
            half = [2 * math.pi * y / T for T in periods] + [2 * math.pi * x / T for T in periods]
            rows.append(half + half)
    return np.array(rows)


def assert_table(
    rope: RopePositionEmbedding, H: int, W: int, angles: NDArray[np.float64], atol: float
) -> None:
    sin, cos = rope(H=H, W=W)
    assert sin.shape == cos.shape == angles.shape
    np.testing.assert_allclose(sin.double().numpy(), np.sin(angles), rtol=0, atol=atol)
    np.testing.assert_allclose(cos.double().numpy(), np.cos(angles), rtol=0, atol=atol)


# ---- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["separate", "max", "min"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-13), (torch.float32, 6e-6)])
def test_table_with_exact_periods(
    normalize: str, grid: tuple[int, int], dtype: torch.dtype, atol: float
) -> None:
    """fp32 differs by its rounding of angles up to 50 ("min"): 1.9e-6 measured."""
    rope = make(normalize_coords=normalize, dtype=dtype)
    exact = [100 ** (4 * i / 64) for i in range(16)]
    assert_table(rope, *grid, angles_in_float64(exact, *grid, normalize), atol)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("grid", GRIDS)
def test_table_with_the_periods_of_a_released_file(head_dim: int, grid: tuple[int, int]) -> None:
    """bf16 values loaded into an fp32 layer: fp32 arithmetic on rounded periods (docs/spec.md 0, fact 1)."""
    rope = make(head_dim, dtype=torch.float32)
    rope.load_state_dict({"periods": torch.tensor(BF16_PERIODS[head_dim], dtype=torch.bfloat16)})
    assert rope.periods.dtype == torch.float32
    angles = angles_in_float64(BF16_PERIODS[head_dim], *grid)
    assert_table(rope, *grid, angles, atol=1.5e-6)  # 5.1e-7 measured
    sin, _ = make(head_dim, dtype=torch.float32)(H=grid[0], W=grid[1])
    assert np.abs(sin.double().numpy() - np.sin(angles)).max() > 1e-3  # exact periods are told apart


def read_coordinates(rope: RopePositionEmbedding, H: int, W: int) -> Tensor:
    """[H,W,2] from a table with one period of 8, so long that no angle wraps around."""
    sin, cos = rope(H=H, W=W)
    assert torch.equal(sin[:, :2], sin[:, 2:])  # (h, w, h, w)
    return (torch.atan2(sin, cos)[:, :2] * 8 / (2 * math.pi)).unflatten(0, (H, W))


@pytest.mark.parametrize(
    ("normalize", "rows", "columns"),
    [
        ("separate", (-0.875, 0.875), (-0.9375, 0.9375)),  # ±(1 - 1/H), ±(1 - 1/W)
        ("max", (-0.9375, -0.0625), (-0.9375, 0.9375)),  # not centred
        ("min", (-0.875, 0.875), (-0.875, 2.875)),
    ],
)
def test_coordinates_of_an_8_by_16_grid(
    normalize: str, rows: tuple[float, float], columns: tuple[float, float]
) -> None:
    rope = make(4, 1, base=None, min_period=8.0, max_period=8.0, normalize_coords=normalize)
    coords = read_coordinates(rope, 8, 16)
    ends = [coords[0, 0, 0], coords[-1, 0, 0], coords[0, 0, 1], coords[0, -1, 1]]
    assert [float(c) for c in ends] == pytest.approx([*rows, *columns], abs=1e-6)
    assert torch.equal(coords[:, 0, 0], coords[:, 9, 0])  # rows do not depend on the column
    assert torch.equal(coords[0, :, 1], coords[5, :, 1])


# ---- periods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", BF16_PERIODS)
def test_bf16_periods_are_the_published_ones(head_dim: int) -> None:
    rounded = torch.tensor(BF16_PERIODS[head_dim])
    assert torch.equal(make(head_dim, dtype=torch.bfloat16).periods.float(), rounded)
    assert torch.equal(make(head_dim, dtype=torch.float32).periods.bfloat16().float(), rounded)


def test_periods_between_a_least_and_a_largest() -> None:
    rope = make(16, base=None, min_period=0.5, max_period=108.0, dtype=torch.float64)
    np.testing.assert_allclose(rope.periods.numpy(), [0.5, 3.0, 18.0, 108.0], rtol=1e-14)


def test_arithmetic_goes_by_the_layers_dtype_and_not_by_the_buffers() -> None:
    rope = make(dtype=torch.float32)
    wanted = rope(H=3, W=5)
    rope.double()
    assert rope.periods.dtype == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(rope(H=3, W=5), wanted, strict=True))
    assert {t.dtype for t in make(dtype=torch.bfloat16)(H=3, W=5)} == {torch.bfloat16}


def test_bf16_table_is_rounded_at_every_step() -> None:
    rope = make(dtype=torch.bfloat16)
    sin, _ = rope(H=3, W=5)
    row = torch.tensor(0.5, dtype=torch.bfloat16) / 3 * 2 - 1
    assert torch.equal(sin[0, :16], torch.sin(2 * math.pi * row / rope.periods))


def test_periods_are_saved_and_set_again() -> None:
    rope = make()
    assert list(rope.state_dict()) == ["periods"]
    wanted = rope.periods.clone()
    rope.periods.fill_(math.nan)
    rope.reset_parameters()
    assert torch.equal(rope.periods, wanted)


def test_the_table_is_not_remembered_across_bases() -> None:
    one, other = make(base=100.0)(H=3, W=4)[0], make(base=50.0)(H=3, W=4)[0]
    assert not torch.equal(one, other)


# ---- augmentation in training -------------------------------------------------------------------

AUGMENTED: dict[str, Any] = {"shift_coords": 0.3, "jitter_coords": 1.5, "rescale_coords": 2.0}


def test_shift_then_jitter_then_rescale() -> None:
    """The draws again, in the same order: 2 shifts, 2 jitters, 1 scale for both axes.

    Source: docs/spec.md 2.2, step 3.
    """
    periods: dict[str, Any] = {"base": None, "min_period": 8.0, "max_period": 8.0}
    plain = read_coordinates(make(4, 1, **periods), 3, 5)
    rope = make(4, 1, **periods, **AUGMENTED).train()
    torch.manual_seed(7)
    got = read_coordinates(rope, 3, 5)
    torch.manual_seed(7)
    shift = torch.empty(2).uniform_(-0.3, 0.3)
    jitter = torch.empty(2).uniform_(-math.log(1.5), math.log(1.5)).exp()
    rescale = torch.empty(1).uniform_(-math.log(2.0), math.log(2.0)).exp()
    torch.testing.assert_close(got, (plain + shift) * jitter * rescale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("option", AUGMENTED)
def test_every_call_in_training_draws_anew(option: str) -> None:
    torch.manual_seed(0)
    rope = make(**{option: AUGMENTED[option]}).train()
    assert not torch.equal(rope(H=3, W=5)[0], rope(H=3, W=5)[0])


def test_evaluation_draws_nothing() -> None:
    rope = make(**AUGMENTED)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(rope(H=3, W=5)[0], make()(H=3, W=5)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_scale_is_log_uniform_and_shared_by_both_axes() -> None:
    torch.manual_seed(0)
    rope = make(4, 1, base=None, min_period=8.0, max_period=8.0, rescale_coords=2.0).train()
    corners = torch.stack([read_coordinates(rope, 2, 2)[0, 0] for _ in range(400)])  # plain: (-0.5, -0.5)
    factors = corners / -0.5
    torch.testing.assert_close(factors[:, 0], factors[:, 1])
    logs = factors[:, 0].log() / math.log(2.0)
    assert 0.98 < float(logs.abs().max()) <= 1.0 + 1e-5
    assert abs(float(logs.mean())) < 0.1  # uniform in the logarithm: standard error 0.03
    assert float(logs.std()) == pytest.approx(1 / math.sqrt(3), abs=0.05)


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"base": None},
        {"base": 100.0, "min_period": 1.0, "max_period": 9.0},
        {"base": 100.0, "min_period": 1.0},
        {"base": None, "max_period": 9.0},
    ],
)
def test_exactly_one_kind_of_periods(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted base alone, or both periods alone"):
        make(**options)


def test_impossible_dimensions_and_names() -> None:
    with pytest.raises(ValueError, match="embed_dim 66 is not a multiple of 4 x 3 heads"):
        RopePositionEmbedding(66, num_heads=3)
    with pytest.raises(ValueError, match="normalize_coords 'mean'; wanted one of separate, max, min"):
        make(normalize_coords="mean")
