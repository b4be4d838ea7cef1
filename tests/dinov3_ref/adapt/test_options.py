"""Options of a fine-tuning: what is refused, and how words change them."""

from __future__ import annotations

from typing import Any

import pytest

from dinov3_ref.adapt.options import FineTuneOptions, loop_config, with_settings
from dinov3_ref.configs.checks import check_config, check_ready
from dinov3_ref.errors import ConfigError
from dinov3_ref.train.schedules import build_rates

BASE: dict[str, Any] = {"task": "classify", "height": 32, "width": 32, "lora": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "detect"}, "task is 'detect'"),
        ({"unfreeze": 1}, "one of --lora RANK and --unfreeze"),
        ({"lora": None}, "one of --lora RANK and --unfreeze"),
        ({"lora": 0}, "rank is 0"),
        ({"lora": None, "unfreeze": -1}, "unfreeze is -1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"warmup_epochs": 30}, "at most epochs"),
        ({"crop_scale": (0.9, 0.5)}, "crop_scale"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
    ],
)
def test_bad_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FineTuneOptions(**{**BASE, **changes})


def test_words_change_options() -> None:
    words = ["lr=1e-3", "flip=false", "crop_scale=0.8,1", "lora_targets=q,v", "epochs=3", "precision=fp32"]
    made = with_settings(FineTuneOptions(**BASE), words)
    assert (made.lr, made.flip, made.crop_scale, made.epochs) == (1e-3, False, (0.8, 1.0), 3)
    assert made.lora_options().targets == ("q", "v")


@pytest.mark.parametrize(
    "word", ["lr", "lr=fast", "flip=maybe", "epochs=1.5", "speed=2", "seed=3", "crop_scale=1"]
)
def test_bad_words_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=word.split("=")[0]):
        with_settings(FineTuneOptions(**BASE), [word])


def test_the_rates_warm_up_and_fall_to_zero() -> None:
    options = FineTuneOptions(**{**BASE, "epochs": 4, "lr": 0.5, "weight_decay": 0.1})
    config = loop_config(options, 5, "out", bf16=True)
    check_config(config)
    check_ready(config)
    rates = build_rates(config)
    lrs = [rates.at(step).lr for step in range(rates.total_iterations)]
    assert len(lrs) == 20
    assert lrs[0] == 0
    assert max(lrs) == lrs[5] == pytest.approx(0.5)
    assert lrs[5:] == sorted(lrs[5:], reverse=True)
    assert lrs[-1] < 0.02
    assert {rates.at(step).weight_decay for step in (0, 10, 19)} == {0.1}
