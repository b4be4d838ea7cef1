"""Peers run the bundle's own weights, or do not run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dinodeploy.bundle.bundle import GOLDEN_FILE, open_bundle
from dinodeploy.bundle.manifest import ModelFacts
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import load_golden
from dinov3_ref.checkpoints import build_model, load_checkpoint, random_checkpoint, save_checkpoint
from exporters.peers import PEERS, open_peer
from exporters.peers.runners import checkpoint_of
from tests.support.images.photographs import pixels
from tests.support.tiny_models import export_passing, tiny_config

STEPS = Preprocess("official", 64, 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LIMIT = 5e-6  # relative error of CLS against the reference; measured 4e-7


@pytest.mark.parametrize("arch", ["vit_small", "convnext_tiny"])
@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("compile", "nncf")])
def test_the_same_model(name: str, arch: str) -> None:
    """RoPE's periods included: with transformers' and timm's own the error is a thousand times larger."""
    checkpoint = random_checkpoint(arch)
    runner = PEERS[name](checkpoint, STEPS, 1)
    assert runner.runtime.startswith(("torch ", f"{name} "))
    x = pixels(["china", "coffee"], 64, 96)
    got = runner.run(x.numpy())["cls"]
    with torch.no_grad():
        wanted = build_model(checkpoint)(x).numpy()
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) <= LIMIT


@pytest.mark.slow
def test_nncf_makes_8_bits_of_the_same_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Of every size; what it prints stays off stdout, which is for results."""
    pytest.importorskip("nncf")
    checkpoint = random_checkpoint(tiny_config())
    runner = PEERS["nncf"](checkpoint, STEPS, 1)
    assert capsys.readouterr().out == ""
    assert runner.runtime.startswith("nncf ")
    for size in ((64, 96), (96, 64)):
        x = pixels(["china", "coffee"], *size)
        got = runner.run(x.numpy())["cls"]
        with torch.no_grad():
            wanted = build_model(checkpoint)(x).numpy()
        assert 1e-4 < np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 0.2
    runner.close()


def test_the_bundles_own_weights(tmp_path: Path) -> None:
    for seed, name in ((0, "right"), (1, "wrong")):
        save_checkpoint(random_checkpoint(tiny_config(), seed), "official", tmp_path / f"{name}.pth")
    bundle = export_passing(load_checkpoint(tmp_path / "right.pth"), tmp_path / "bundle")
    runner = open_peer("torch", bundle.manifest, str(tmp_path / "right.pth"), threads=1)
    case = load_golden(bundle.root / GOLDEN_FILE)[0]
    np.testing.assert_allclose(runner.run(case.pixels)["cls"], case.outputs["cls"], rtol=1e-4, atol=1e-5)
    runner.close()
    with pytest.raises(
        MisuseError, match=r"wrong\.pth is not the checkpoint of the bundle: sha256 .*--checkpoint"
    ):
        open_peer("torch", bundle.manifest, str(tmp_path / "wrong.pth"), threads=1)
    with pytest.raises(MisuseError, match=r"need the checkpoint of the bundle .*--checkpoint FILE"):
        checkpoint_of(open_bundle(bundle.root).manifest.model, None)


def test_random_weights_are_drawn_again() -> None:
    source = random_checkpoint("vit_small", 3)
    facts = ModelFacts(
        "vit_small", 384, 12, 6, 16, 4, "random", source.source, source.sha256, "random", None, "bf16"
    )
    assert checkpoint_of(facts, None).sha256 == source.sha256
    with pytest.raises(MisuseError, match="is not the checkpoint of the bundle"):
        checkpoint_of(replace(facts, source="random:vit_small:seed4"), None)


def test_a_missing_library_is_named(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from exporters.peers import runners

    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(runners, "checkpoint_of", lambda *_: random_checkpoint(tiny_config()))
    with pytest.raises(UnavailableError, match=r"--vs timm needs timm, .*pip install timm"):
        open_peer("timm", open_bundle(tiny_bundle).manifest, None, threads=1)
