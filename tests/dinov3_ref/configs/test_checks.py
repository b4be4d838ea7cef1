"""Checks of a configuration: allowed values and contradictions, each a one-line error."""

from __future__ import annotations

import pytest

from dinov3_ref.configs import Crops, load_config
from dinov3_ref.configs.checks import check_global_crops, check_local_crops
from dinov3_ref.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.centering=kmeans"], "train.centering is 'kmeans'; wanted one of sinkhorn_knopp"),
        (["train.batch_size_per_gpu=0"], "train.batch_size_per_gpu is 0; wanted a positive integer"),
        (["train.batch_size_per_gpu=1"], "train.batch_size_per_gpu is 1; KoLeo compares each image"),
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


def test_a_convnext_needs_multiples_of_32() -> None:
    check_global_crops(Crops(global_crops_size=[224, 256]), "convnext_tiny", "the student")
    with pytest.raises(ConfigError, match="the student convnext_tiny sees 240 px; wanted a multiple"):
        check_global_crops(Crops(global_crops_size=[224, 240]), "convnext_tiny", "the student")


def test_the_size_after_scaling_counts() -> None:
    check_global_crops(Crops(global_crops_size=512), "convnext_tiny", "the student", 2.0)
    with pytest.raises(ConfigError, match=r"crops\.global_crops_size is 480, .* sees 240 px"):
        check_global_crops(Crops(global_crops_size=480), "convnext_tiny", "the student", 2.0)


def test_local_crops_need_one_patch() -> None:
    check_local_crops(Crops(local_crops_size=48), "convnext_tiny", 1.0)
    with pytest.raises(ConfigError, match="convnext_tiny sees 24 px; wanted at least its stride"):
        check_local_crops(Crops(local_crops_size=48), "convnext_tiny", 2.0)


def test_vits_are_not_checked() -> None:
    check_global_crops(Crops(global_crops_size=225), "vit_small", "the student")


@pytest.mark.parametrize("without", ["dino.koleo_loss_weight=0", "dino.koleo_loss_distributed=true"])
def test_one_image_per_gpu_trains_without_local_koleo(without: str) -> None:
    assert load_config(None, ["train.batch_size_per_gpu=1", without]).train.batch_size_per_gpu == 1
