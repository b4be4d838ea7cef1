"""The commands of docs/training.md run in order, with a tiny model and few images; recipes and keys exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dinov3_ref.configs import load_config, recipe_names
from tests.support.images.photographs import photograph

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
# arguments added to each command to make it short
SHORT = {
    "dinov3_ref.data.toy": ["--pictures", "40", "--side", "32"],
    "dinov3_ref.train": [
        "student.embed_dim=32", "student.depth=2", "student.num_heads=2", "train.batch_size_per_gpu=8",
        "train.num_workers=0", "train.OFFICIAL_EPOCH_LENGTH=1", "train.tensorboard=false", "optim.epochs=3",
        "optim.warmup_epochs=1", "teacher.warmup_teacher_temp_epochs=1",
    ],
    "dinov3_ref.eval.knn": [],
    "dinov3_ref.eval.linear": ["--epochs", "1", "--epoch-length", "2", "--batch", "8"],
}  # fmt: skip
KEPT = 12  # images per class of the toy set's labelled parts


def commands() -> list[list[str]]:
    """The words after `python -m` of each line in a fence; lines with a … are left out."""
    text = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("python -m ") and "…" not in line]
    return [shlex.split(line)[2:] for line in lines]


def thin(folder: Path) -> None:
    """Keep only the first images of every class."""
    for class_folder in (path for split in folder.iterdir() for path in split.iterdir() if path.is_dir()):
        for path in sorted(class_folder.iterdir())[KEPT:]:
            path.unlink()


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photograph("coffee").resize((96, 64)).save(tmp_path / "photos" / "coffee.jpg")
    told = commands()
    assert [module for module, *_ in told] == [
        "dinov3_ref.data.toy", "dinov3_ref.train", "dinov3_ref.train", "dinov3_ref.train", "dinov3_ref.train",
        "dinov3_ref.eval.knn", "dinov3_ref.eval.linear",
    ]  # fmt: skip
    for module, *words in told:
        ran = subprocess.run(
            [sys.executable, "-m", module, *words, *SHORT[module]],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{module}: {ran.stderr}"
        if module == "dinov3_ref.data.toy":
            shutil.copytree(tmp_path / "toy" / "digits", tmp_path / "digits")
            thin(tmp_path / "digits")
            thin(tmp_path / "toy" / "textures")
        elif "evaluation" not in " ".join(words) and "train.output_dir=run" in words:
            assert (tmp_path / "run" / "teacher" / "model.safetensors").is_file()
            for name in written():
                assert (tmp_path / "run" / name).exists(), name
            shutil.rmtree(tmp_path / "run")  # otherwise the next run has nothing left to do
    assert (tmp_path / "run" / "evaluations.json").is_file()
    assert list((tmp_path / "run" / "pictures").glob("pca_*.png"))


def written() -> list[str]:
    """Files that the page's table says every run writes."""
    names = re.findall(
        r"^\| `([\w./]+)`", PAGE.split("## What a run writes")[1].split("\n## ")[0], re.MULTILINE
    )
    found = [name for name in names if name not in ("evaluations.json", "tensorboard/")]
    assert "training_metrics.json" in found
    return found


def test_the_recipes_and_keys_exist() -> None:
    section = PAGE.split("## Configuration")[1]
    recipes = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section.split("Frequent keys")[0], re.M))
    )
    assert set(recipes) == set(recipe_names())
    config = load_config("toy_cpu", ["train.dataset_path=toy", "train.output_dir=run"])
    keys = re.findall(r"(?:`|\s)([a-z]+(?:\.\w+)+)(?:=[^`\s]*)?(?:`|\s)", PAGE)
    known = [key for key in keys if key.split(".")[0] in config and not key.endswith(".pth")]
    assert len(known) > 10
    for key in known:
        group, _, name = key.rpartition(".")
        assert name in OmegaConf.select(config, group), key
