"""Every command with a ConvNeXt: it works as with a ViT, or says in one line why not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import load_embeddings
from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from tests.support.faults import CONVNEXT_FAULTS, plant, reseal
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine, assert_refused
from tests.support.tiny_models import export_passing, tiny_convnext

NAMES = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, images, and a bundle of it. Shared: read only."""
    root = tmp_path_factory.mktemp("convnext")
    checkpoint = random_checkpoint(tiny_convnext())
    save_checkpoint(checkpoint, "official", root / "convnext.pth")
    (root / "pictures").mkdir()
    for name in NAMES:
        photograph(name).resize((180, 120)).save(root / "pictures" / f"{name}.png")
    export_passing(checkpoint, root / "other", preset="hf", layers=(0, 1))
    return root


def test_convert_export_inspect_check_embed(run: CommandLine, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    converted = run("convert", folder / "convnext.pth", "--to", "hf", "--out", tmp_path / "hf", "--json")
    assert converted.code == 0, converted.err
    bundle = tmp_path / "bundle"
    exported = run("export", "--weights", tmp_path / "hf", "--out", bundle, "--fp16", "--no-engine", "--json")
    assert exported.code == 0, exported.err
    assert (exported.json["passed"], exported.json["precision"]) == (True, "fp16")
    inspected = run("inspect", bundle, "--json").json
    assert (inspected["model"]["patch_size"], inspected["model"]["rope_periods"]) == (32, None)
    assert inspected["types"]["depthwise"] == {"FLOAT16": 6}
    checked = run("check", bundle, "--report", tmp_path / "report.html", "--report", tmp_path / "report.xml")
    assert checked.code == 0, checked.err
    assert "custom" in (tmp_path / "report.html").read_text()
    out = tmp_path / "embeddings"
    assert run("embed", folder / "pictures", "--engine", bundle, "--out", out, "--imgsz", "224").code == 0
    ids, vectors = load_embeddings(out)
    assert vectors.shape == (len(ids), 128) == (len(NAMES), 128)
    compared = run(
        "check", bundle, "--against", folder / "other", "--images", folder / "pictures", "-k", "1", "--json"
    )
    assert compared.code in (0, 1), compared.err
    assert compared.json["against"]["images"] == len(NAMES)


@pytest.mark.slow
def test_bisect(run: CommandLine, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    report = tmp_path / "report.html"
    ran = run("check", folder / "other", "--bisect", "--report", report)
    assert ran.code == 0, ran.err
    assert "bisect: no place departs" in ran.out
    rows = {words[0]: words[1:] for words in map(str.split, ran.out.splitlines()) if words}
    assert rows["place"] == ["step", "cls", "err", "1-cos", "patch", "err", "1-cos"]
    assert (len(rows["stages.2.2"]), len(rows["outputs"])) == (3, 5), "CLS is among the outputs alone"
    assert {"↓1", "↓3"} <= set(re.findall(r">([^<]+)</text>", report.read_text()))
    root = Path(shutil.copytree(folder / "other", tmp_path / "broken"))
    plant(root / "model.onnx", CONVNEXT_FAULTS["a kernel shifted"], "stages.2.1", np.random.default_rng(0))
    reseal(root)
    ran = run("check", root, "--bisect")
    assert ran.code == 1
    assert ran.out.splitlines()[-1].startswith("bisect: first departs at stages.2.1 (step ")


def test_inspect_a_checkpoint(run: CommandLine, folder: Path) -> None:
    facts = run("inspect", folder / "convnext.pth", "--json").json
    wanted = sum(tensor.numel() for tensor in random_checkpoint(tiny_convnext()).state.values()) - 2 * 128
    assert facts["parameters"] == wanted  # the norm that is stored twice counts once
    assert facts["config"]["depths"] == [1, 1, 3, 1]


def test_ranges(run: CommandLine, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "ranges.svg"
    ran = run("ranges", folder / "convnext.pth", "--images", folder / "pictures", "--picture", picture)
    assert ran.code == 0, ran.err
    rows = [line.split()[0] for line in ran.out.splitlines()[1:7]]
    assert rows == ["0.0", "1.0", "2.0", "2.1", "2.2", "3.0"]
    assert "gamma, block" in picture.read_text()


def test_what_it_cannot_is_one_line(run: CommandLine, folder: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (
            ("export", "--weights", folder / "convnext.pth", "--out", tmp_path / "x", "--imgsz", "240"),
            "got 240 px, wanted a multiple of the patch size 32; use 224 or 256",
        ),
        (
            ("export", "--weights", folder / "convnext.pth", "--out", tmp_path / "x", "--layers", "4"),
            "layer 4 does not exist; the model has stages 0..3",
        ),
        (
            ("export", "--weights", folder / "convnext.pth", "--arch", "convnext_small"),
            "holds custom (depths [1, 1, 3, 1], dims [32, 64, 96, 128]), but convnext_small was asked for",
        ),
    ):
        assert_refused(run(*arguments), words, tmp_path, [])


def test_rope_periods_say_nothing_to_it(run: CommandLine, folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    checkpoint = folder / "convnext.pth"
    ran = run("export", "--weights", checkpoint, "--out", bundle, "--rope-periods", "fp32", "--json")
    assert ran.code == 0, ran.err
    assert "a ConvNeXt has no RoPE: --rope-periods changes nothing" in ran.json["notes"]
