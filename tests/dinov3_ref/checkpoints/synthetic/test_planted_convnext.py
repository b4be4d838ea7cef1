"""Planted ConvNeXts: what is promised is there, fp32 holds it, a plain fp16 cast does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3_ref.checkpoints import build_model, planted_checkpoint, random_checkpoint
from dinov3_ref.checkpoints.synthetic.planted import PATHOLOGIES
from dinov3_ref.checkpoints.synthetic.planted_convnext import STAGE_OF
from dinov3_ref.errors import ConfigError
from tests.support.checkpoint_files import same_state
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_convnext

CONFIG = tiny_convnext(depths=(1, 1, 3, 3))
FP16_END = 65504.0


@pytest.fixture(scope="module", params=PATHOLOGIES)
def planted(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, build_model(planted_checkpoint(CONFIG, pathology=request.param))


def test_channels_stand_past_fp16s_end_inside_one_stage(planted: tuple[str, Any]) -> None:
    pathology, model = planted
    stage = model.stages[STAGE_OF[pathology]]
    x = pixels(["chelsea"], 96, 160)
    seen: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, i, out: seen.append(out)) for block in stage]
    with torch.no_grad():
        ends = model.run_stages(x)
    for handle in handles:
        handle.remove()
    peak = PATHOLOGIES[pathology].peak
    for after in seen[:-1]:
        assert (after.abs().amax((0, 2, 3)) > FP16_END).sum() == 4
        assert float(after.abs().max()) == pytest.approx(peak, rel=1e-6)
    assert max(float(end.abs().max()) for end in ends) < 100  # taken back, exactly
    assert float(seen[0].sum(1).abs().max()) < 1000  # they sum to zero


def test_fp32_holds_it_and_a_plain_cast_does_not(planted: tuple[str, Any]) -> None:
    _, model = planted
    x = pixels(["chelsea", "coffee"], 96, 160)
    with torch.no_grad():
        single = model(x)
        double = model.double()(x.double())
        assert float((single - double).norm() / double.norm()) < 2e-6  # 2.5e-7 measured
        assert not model.half()(x.half()).isfinite().all()
    model.float()


def test_same_bytes_everywhere_and_none_shared_with_the_seed() -> None:
    assert same_state(planted_checkpoint(CONFIG, 1), planted_checkpoint(CONFIG, 1))
    assert planted_checkpoint(CONFIG, 1).sha256 != planted_checkpoint(CONFIG, 2).sha256
    assert not same_state(planted_checkpoint(CONFIG, 1), random_checkpoint(CONFIG, 1))
    assert planted_checkpoint(CONFIG).layout == "official"


def test_a_short_stage_is_refused() -> None:
    with pytest.raises(ConfigError, match="stage 3 has 1 blocks; massive channels need 3 or more"):
        planted_checkpoint(tiny_convnext(), pathology="late")
