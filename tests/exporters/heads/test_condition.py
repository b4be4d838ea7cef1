"""Ill-conditioned depth heads: rounding passes the judge, every planted fault is rejected.

The share of pixels with a positive activation is set by the last bias: 1 is a well-conditioned head, at 0.5
and 0.1 rounding decides some pixels, at 0.02 almost all pixels have the same depth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dinodeploy.bundle.facts import HeadFacts
from dinodeploy.parity.golden import GoldenCase
from dinodeploy.parity.tasks import measure_of
from dinov3_ref.checkpoints import build_model, load_checkpoint
from dinov3_ref.heads import DPTDepth, head_beside, named_outputs
from exporters.heads.condition import DISTURBANCE, condition_of
from tests.support.canopy import save_canopy_model
from tests.support.images.photographs import pixels

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers
SHARES = (1.0, 0.5, 0.1, 0.02)
RECIPES = ("fp32", "fp16")
Features = list[Tensor]


class Sample:
    """A head, its features of two photographs, and the faults that can be planted."""

    def __init__(self, folder: Path) -> None:
        save_canopy_model(folder)
        checkpoint = load_checkpoint(folder)
        loaded = head_beside(checkpoint)
        assert loaded is not None
        assert isinstance(loaded.head, DPTDepth)
        self.head, self.model = loaded.head, build_model(checkpoint)
        self.wrong = build_model(checkpoint)
        self.wrong.rope_embed.periods = self.wrong.rope_embed.periods * 1.5  # type: ignore[union-attr]
        self.x = pixels(["coffee", "astronaut"], 96, 160)
        with torch.no_grad():
            self.features = self.run(self.x)
            activations = self.head.decoder(
                [x.permute(0, 3, 1, 2) for x in self.features[:4]], self.features[4:]
            )
        self.largest = activations.amax(1).flatten()

    def run(self, x: Tensor, model: object = None) -> Features:
        found = named_outputs(model or self.model, x, self.head.inputs)  # type: ignore[arg-type]
        return [found[name] for name in self.head.inputs]

    def with_share(self, share: float) -> DPTDepth:
        """The head with `share` of the pixels above zero."""
        head = copy.deepcopy(self.head)
        if share < 1:
            head.decoder.conv_depth.head[4].bias.data -= self.largest.quantile(1 - share)  # type: ignore[operator, union-attr, index]
        return head

    def without_norm(self, x: Tensor) -> Tensor:
        norm = self.model.norm
        return (x - norm.bias) / norm.weight  # type: ignore[operator]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return Sample(tmp_path_factory.mktemp("chmv2"))


def _bins(head: DPTDepth, centres: Tensor) -> DPTDepth:
    head = copy.deepcopy(head)
    head.to_depth.bins = centres
    return head


Fault = Callable[[Sample, DPTDepth], tuple[DPTDepth, Features]]
FAULTS: dict[str, Fault] = {
    "a range of 100 m": lambda s, h: (_bins(h, h.to_depth.bins * 100 / 96), s.features),
    "linear bins": lambda s, h: (
        _bins(h, torch.linspace(0.001, 12.0, len(h.to_depth.bins))),
        s.features,
    ),
    "another block": lambda s, h: (h, [s.features[i] for i in (0, 2, 2, 3, 4, 6, 6, 7)]),
    "CLS of other blocks": lambda s, h: (h, [s.features[i] for i in (0, 1, 2, 3, 4, 6, 5, 7)]),
    "a missing norm": lambda s, h: (h, [s.without_norm(x) for x in s.features]),
    "swapped channels": lambda s, h: (h, s.run(s.x.flip(1))),
    "another period buffer": lambda s, h: (h, s.run(s.x, s.wrong)),
}


def judged(sample: Sample, head: DPTDepth, recipe: str) -> Callable[[DPTDepth, Features], bool]:
    """A judge of heads on features against `head` on its own."""
    case = GoldenCase(
        "one", (), sample.x.numpy(), {n: x.numpy() for n, x in zip(head.inputs, sample.features, strict=True)}
    )
    settings = {**head.settings, **condition_of(head, [case], recipe)}
    facts = HeadFacts("depth", "dpt_depth", head.inputs, ("depth",), (), "", "", "", settings)
    own = measure_of(facts)
    assert own is not None
    limits = {one.metric: one for one in own.limits(recipe, facts)}
    with torch.no_grad():
        wanted = {"depth": head(*sample.features)[0].numpy()}

    def passes(other: DPTDepth, features: Features) -> bool:
        with torch.no_grad():
            got = {"depth": other(*features)[0].numpy()}
        values = own.measure(got, wanted, facts)["depth"]
        return all(limits[metric].holds(value) for metric, value in values.items() if metric in limits)

    return passes


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("share", SHARES)
def test_rounding_passes_and_faults_do_not(sample: Sample, share: float, recipe: str) -> None:
    head = sample.with_share(share)
    passes = judged(sample, head, recipe)
    generator = torch.Generator().manual_seed(9)
    rounded = [
        x + DISTURBANCE[recipe] * x.square().mean().sqrt() * torch.randn(x.shape, generator=generator)
        for x in sample.features
    ]
    assert passes(head, sample.features)
    assert passes(head, rounded)
    with torch.no_grad():
        kept = [name for name, plant in FAULTS.items() if passes(*plant(sample, head))]
    assert kept == []


def test_only_a_head_that_needs_it_is_measured(sample: Sample) -> None:
    head = copy.deepcopy(sample.head)
    head.needs_condition = False
    assert condition_of(head, [], "fp32") == {}
    case = GoldenCase(
        "one", (), sample.x.numpy(), {n: x.numpy() for n, x in zip(head.inputs, sample.features, strict=True)}
    )
    good, sharp = (condition_of(sample.with_share(share), [case], "fp16") for share in (1.0, 0.1))
    assert good["condition"].keys() == {"fp32", "fp16"}
    assert good["condition"]["fp32"]["depth_error"] < 1e-6
    assert sharp["condition"]["fp16"]["depth_variation"] > 5 * good["condition"]["fp16"]["depth_variation"]
    assert np.isfinite(list(sharp["condition"]["fp32"].values())).all()
