"""The folder of a fine-tuned model: what the base's facts become. Its numbers: `test_run.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dinov3_ref.adapt.networks import FineTuned
from dinov3_ref.adapt.objectives import Classify
from dinov3_ref.adapt.options import FineTuneOptions
from dinov3_ref.adapt.result import licence_of, write_result
from dinov3_ref.checkpoints import META_LICENCE, load_checkpoint, random_checkpoint
from dinov3_ref.errors import CheckpointError, ConfigError
from dinov3_ref.heads import LinearClassifier, head_beside
from dinov3_ref.heads.files import METADATA_KEY
from tests.support.tiny_models import tiny_config, tiny_convnext


def test_the_licence_of_the_base_is_kept() -> None:
    base = random_checkpoint(tiny_config())
    assert licence_of(replace(base, licence="mine")) == {"license": "mine"}
    assert licence_of(replace(base, dataset="lvd1689m")) == {"license": META_LICENCE}
    assert licence_of(replace(base, dataset=None)) == {}


@pytest.mark.parametrize("config", [tiny_config(depth=2, embed_dim=32, num_heads=1), tiny_convnext()])
def test_the_folder_loads_with_its_head(config: object, tmp_path: Path) -> None:
    base = replace(random_checkpoint(config), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))  # type: ignore[arg-type]
    options = FineTuneOptions("classify", 32, 32, unfreeze=1)
    head = LinearClassifier(base.config.embed_dim, 2, "mean", ("a", "b"))
    write_result(FineTuned(base, head, Classify(), options), base, tmp_path, {}, "ours")
    loaded = load_checkpoint(tmp_path)
    assert (loaded.mean, loaded.std) == (base.mean, base.std)
    assert loaded.config == base.config
    found = head_beside(loaded, classes=("x", "y"))
    assert found is not None
    assert (found.kind, found.head.inputs, found.head.classes) == (
        "linear_classifier",
        ("patch",),
        ("x", "y"),
    )
    with pytest.raises(ConfigError, match="leave --pooling out"):
        head_beside(loaded, pooling="cls")
    described = json.loads((tmp_path / "config.json").read_text())
    described[METADATA_KEY]["kind"] = "unheard"
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="a head of kind 'unheard'"):
        head_beside(load_checkpoint(tmp_path))
