"""Checks of a configuration: allowed values and contradictions, each a one-line error."""

from __future__ import annotations

import pytest

from dinov3_ref.configs import load_config
from dinov3_ref.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.centering=kmeans"], "train.centering is 'kmeans'; wanted one of sinkhorn_knopp"),
        (["train.batch_size_per_gpu=0"], "train.batch_size_per_gpu is 0; wanted a positive integer"),
        (["crops.color_jitter=[0.4,0.4]"], "wanted four strengths"),
        (["crops.color_jitter=[0.4,0.4,0.2,0.6]"], r"hue \(at most 0.5\)"),
        (["crops.teacher_to_student_resolution_scale=2"], "wanted 1, or more with distillation.enabled"),
        (["distillation.enabled=true"], "distillation.enabled needs distillation.full_cfg_path"),
        (["evaluation.test_dataset_path=x"], "kNN needs both"),
        (["evaluation.pictures_path=x", "evaluation.crop_size=50"], "wanted a multiple of 16"),
        (["gram.use_loss=true"], "gram: a Gram teacher needs crops.gram_teacher_crops_size"),
        (["student.pretrained_weights=a", "student.resume_from_teacher_chkpt=b"], "choose one"),
    ],
)
def test_a_contradiction_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(None, overrides)
    assert "\n" not in str(raised.value)
