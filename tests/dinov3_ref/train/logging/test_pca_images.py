"""Colours of patches: what they are by hand, and that nothing arbitrary decides them."""

from __future__ import annotations

import torch

from dinov3_ref.train.logging.pca_images import pca_colours


def test_the_first_component_is_red() -> None:
    """Features on a line: red grows along it, from nothing to full; green and blue have nothing to show."""
    line = torch.arange(40.0).view(2, 20, 1) * torch.tensor([1.0, 3.0, -2.0, 0.0, 0.5])
    colours = pca_colours(line)
    assert colours.shape == (2, 20, 3)
    red = colours[..., 0].flatten()
    assert (red.diff() >= 0).all()
    assert (red[0], red[-1]) == (0, 1)
    torch.testing.assert_close(red[[10, 29]], torch.tensor([9.22, 28.22]) / 37.44)  # quantiles .78, 38.22


def test_signs_do_not_flip() -> None:
    """Features turned by a hair, so that the solver may choose other signs, give nearly the same colours."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 30, 8, generator=generator) * torch.arange(1, 9)
    for seed in range(5):
        noise = 1e-5 * torch.randn(features.shape, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(pca_colours(features + noise), pca_colours(features), rtol=0, atol=1e-3)


def test_equal_features_are_no_error() -> None:
    assert pca_colours(torch.ones(1, 4, 8)).isfinite().all()
