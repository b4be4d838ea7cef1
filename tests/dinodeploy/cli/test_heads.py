"""The commands of heads: train one, add one, export one, predict; failures are one line and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.parity.golden import load_golden
from dinov3_ref.heads import LinearClassifier, LinearDepth, save_head
from tests.support.images.labelled_images import SCENES, write_digits, write_scenes
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine, assert_refused


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("data") / "digits", each=8, kinds=3)


@pytest.fixture(scope="module")
def classifier(four_maps_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a classifier of three kinds, its weights known."""
    from exporters.heads import add_head

    torch.manual_seed(0)
    head = LinearClassifier(128, 3, classes=("cat", "cup", "sky"))
    return add_head(four_maps_bundle, head, tmp_path_factory.mktemp("bundles") / "classifier")[0].root


def test_from_pictures_to_predictions(
    four_maps_bundle: Path, digits: Path, tmp_path: Path, run: CommandLine
) -> None:
    out = tmp_path / "bundle"
    options = ("--data", digits, "--engine", four_maps_bundle, "--out", out, "--cache", tmp_path / "cache")
    ran = run("train-head", "--task", "classify", *options, "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["classes"] == ["digit_0", "digit_1", "digit_2"]
    assert found["accuracy"] > found["chance"]
    assert (found["bundle"], found["outputs"], found["quarantined"]) == (str(out), ["logits"], [])
    assert open_bundle(out).manifest.head.source == "digits-classify.safetensors"  # type: ignore[union-attr]
    ran = run("predict", digits / "digit_2", "--engine", out, "--json", "--top", "2")
    assert ran.code == 0, ran.err
    best = [row["classes"][0] for row in ran.json["predictions"]]
    assert [entry["class"] for entry in best].count("digit_2") >= 6
    assert all(len(row["classes"]) == 2 for row in ran.json["predictions"])


def test_a_head_alone_and_added_later(
    four_maps_bundle: Path, digits: Path, tmp_path: Path, run: CommandLine
) -> None:
    path = tmp_path / "head.safetensors"
    options = ("--data", digits, "--engine", four_maps_bundle, "--out", path, "--no-cache")
    ran = run("train-head", "--task", "classify", *options)
    assert ran.code == 0, ran.err
    assert f"next: dinodeploy add-head {four_maps_bundle} --head {path} --out BUNDLE" in ran.out
    ran = run("add-head", four_maps_bundle, "--head", path, "--out", tmp_path / "b", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["task"], ran.json["classes"][0]) == ("classify", "digit_0")
    ran = run("inspect", tmp_path / "b")
    assert "kind: linear_classifier" in ran.out
    ran = run("check", tmp_path / "b")
    assert ran.code == 0
    assert "logits" in ran.out
    assert "…" not in ran.out, "nothing is cut off at eighty columns"


def test_scenes_are_segmented_at_the_image_size(
    four_maps_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    """The preset crops the centre: pixels that the input did not show are 255."""
    scenes = write_scenes(tmp_path / "scenes", 12)
    options = ("--data", scenes, "--engine", four_maps_bundle, "--out", tmp_path / "b", "--no-cache")
    ran = run("train-head", "--task", "segment", *options)
    assert ran.code == 0, ran.err
    assert "test: mean IoU" in ran.out
    assert f"next: dinodeploy predict IMAGES --engine {tmp_path / 'b'}" in ran.out
    out = tmp_path / "out"
    ran = run("predict", scenes / "images", "--engine", tmp_path / "b", "--out", out, "--json")
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert rows == ran.json["predictions"]
    counts = ran.json["counts"]
    assert (counts["seen"], counts["embedded"]) == (len(rows), len(rows))
    with Image.open(out / rows[0]["mask"]) as mask:
        assert (mask.mode, mask.size) == ("P", (160, 120))
        ids = np.asarray(mask)
    assert (ids[:, :18] == 255).all()
    assert (ids[:, 22:138] < len(SCENES)).all()
    assert sum(rows[0]["shares"].values()) == pytest.approx(1)
    with Image.open(out / rows[0]["overlay"]) as overlay:
        assert overlay.size == (160, 120)


def test_depth_is_written_in_millimetres(four_maps_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    torch.manual_seed(0)
    save_head(LinearDepth(128, 8, min_depth=1.0, max_depth=9.0), tmp_path / "d.safetensors")
    assert (
        run("add-head", four_maps_bundle, "--head", tmp_path / "d.safetensors", "--out", tmp_path / "b").code
        == 0
    )
    photograph("coffee").resize((300, 200)).save(tmp_path / "coffee.jpg")
    ran = run(
        "predict", tmp_path / "coffee.jpg", "--engine", tmp_path / "b", "--out", tmp_path / "out", "--json"
    )
    assert ran.code == 0, ran.err
    (row,) = ran.json["predictions"]
    with Image.open(tmp_path / "out" / row["depth"]) as image:
        depth = np.asarray(image)
    assert (depth.dtype, depth.shape) == (np.uint16, (200, 300))
    assert (depth[:, :49] == 0).all()
    seen = depth[:, 52:248]
    assert abs(int(np.median(seen)) - 1000 * row["metres"]["median"]) < 20
    assert 1000 <= seen.min() <= seen.max() <= 9000


def test_unreadable_images_are_listed(classifier: Path, tmp_path: Path, run: CommandLine) -> None:
    photograph("coffee").resize((64, 64)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff")
    ran = run("predict", tmp_path, "--engine", classifier, "--out", tmp_path / "out")
    assert ran.code == 5
    assert "quarantined:" in ran.err
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 1
    assert "b.jpg" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert ran.out.splitlines()[0].count("0.") == 3, "three classes with their probabilities"
    (tmp_path / "a.jpg").unlink()
    ran = run("predict", tmp_path / "b.jpg", "--engine", classifier, "--json")
    assert (ran.code, ran.json["predictions"], len(ran.json["quarantined"])) == (5, [], 1)


@pytest.mark.slow
def test_export_accepts_a_head(tmp_path: Path, run: CommandLine) -> None:
    """Maps that only the head reads stay inside the graph; requested ones are outputs."""
    from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
    from tests.support.tiny_models import tiny_config

    save_checkpoint(random_checkpoint(tiny_config(depth=4)), "official", tmp_path / "model.safetensors")
    root = tmp_path / "p"
    common = ("--weights", tmp_path / "model.safetensors", "--imgsz", "64", "--no-engine")
    ran = run("export", *common, "--head", "pyramid:0,1,2,3", "--layers", "2", "--out", root)
    assert ran.code == 0, ran.err
    assert "head: feature_pyramid (no weights), outputs level_4, level_8, level_16, level_32" in ran.out
    assert "next: dinodeploy embed" in ran.out
    names = {output.name for output in open_bundle(root).manifest.outputs}
    assert names == {"cls", "storage", "patch", "layer_2", "level_4", "level_8", "level_16", "level_32"}
    assert set(load_golden(root / "golden.safetensors")[0].outputs) == names
    photograph("coffee").resize((64, 64)).save(tmp_path / "a.jpg")
    ran = run("predict", tmp_path / "a.jpg", "--engine", root)
    assert (ran.code, "--outputs level_4,level_8,level_16,level_32" in ran.error) == (2, True)
    ran = run("embed", tmp_path / "a.jpg", "--engine", root, "--outputs", "level_8", "--out", tmp_path / "e")
    assert ran.code == 0, ran.err


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train-head", "--task", "detect", "--data", "{digits}", "--out", "{out}"), "--task 'detect'"),
        (("train-head", "--task", "classify", "--data", "{none}", "--out", "{out}"), "is not a folder"),
        (
            ("train-head", "--task", "segment", "--data", "{digits}", "--out", "{out}"),
            "wanted {digits}/images",
        ),
        (
            ("train-head", "--task", "classify", "--data", "{digits}", "--out", "{none}/h.safetensors"),
            "is not a folder; create it",
        ),
        (("train-head", "--task", "classify", "--data", "{digits}", "--out", "{mine}"), "is not a bundle"),
        (("predict", "{digits}", "--top", "0"), "--top is 0"),
        (("predict", "{digits}"), "has no head; train one: dinodeploy train-head"),
        (("predict", "{none}"), "does not exist"),
    ],
)
def test_misuse_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    four_maps_bundle: Path,
    digits: Path,
    tmp_path: Path,
    run: CommandLine,
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    names = {"digits": digits, "none": tmp_path / "none", "out": tmp_path / "out", "mine": tmp_path / "mine"}
    before = sorted(tmp_path.rglob("*"))
    ran = run(*(text.format(**names) for text in arguments), "--engine", four_maps_bundle)
    assert_refused(ran, message.format(**names), tmp_path, before)


def test_no_other_folder_is_replaced(classifier: Path, tmp_path: Path, run: CommandLine) -> None:
    photograph("coffee").resize((64, 64)).save(tmp_path / "a.jpg")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    for extra in ((), ("--overwrite",)):
        ran = run("predict", tmp_path / "a.jpg", "--engine", classifier, "--out", tmp_path / "mine", *extra)
        assert (ran.code, "holds no predictions.jsonl" in ran.error) == (2, True)
    run("predict", tmp_path / "a.jpg", "--engine", classifier, "--out", tmp_path / "out")
    ran = run("predict", tmp_path / "a.jpg", "--engine", classifier, "--out", tmp_path / "out")
    assert (ran.code, "holds predictions already" in ran.error) == (2, True)
    assert (
        run(
            "predict", tmp_path / "a.jpg", "--engine", classifier, "--out", tmp_path / "out", "--overwrite"
        ).code
        == 0
    )


def test_a_head_of_other_weights_is_refused(
    classifier: Path, four_maps_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    path = tmp_path / "h.safetensors"
    save_head(LinearClassifier(128, 2), path, backbone_sha256="b" * 64)
    ran = run("add-head", four_maps_bundle, "--head", path, "--out", tmp_path / "b")
    assert (ran.code, "was trained on the weights bbbbbbbbbbbb" in ran.error) == (2, True)
    ran = run("add-head", classifier, "--head", path, "--out", tmp_path / "b")
    assert (ran.code, "already has a head" in ran.error) == (2, True)
    assert not (tmp_path / "b").exists()


def test_predicting_needs_neither_torch_nor_scipy(classifier: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    photograph("coffee").resize((64, 64)).save(tmp_path / "a.jpg")
    bundle = Path(shutil.copytree(classifier, tmp_path / "b"))
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "onnx", "scipy")))
sys.argv = ["dinodeploy", "predict", {str(tmp_path / "a.jpg")!r}, "--engine", {str(bundle)!r}]
from dinodeploy.cli.app import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "cup 0." in ran.stdout
