"""Folders as people have them: of training runs, of the hub's cache, of adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint
from dinov3_ref.checkpoints.convert import save_checkpoint
from dinov3_ref.checkpoints.folders import find_weights
from dinov3_ref.errors import CheckpointError
from tests.support.checkpoint_files import TINY_VITS, write_official

CHECKPOINT = random_checkpoint(TINY_VITS["swiglu"])


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    return write_official(tmp_path / "weights", CHECKPOINT).read_bytes()


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# What wrote the folder -> the file with the weights, and files beside it.
FOLDERS = {
    "Lightning": ("last.ckpt", ["hparams.yaml"]),
    "timm": ("model_best.pth.tar", ["args.yaml", "summary.csv"]),
    "a Trainer's checkpoint": (
        "model.safetensors",
        ["optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "trainer_state.json"],
    ),
    "accelerate": (
        "pytorch_model.bin",
        ["optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt"],
    ),
    "accelerate, other name": ("weights.bin", ["optimizer.bin", "scheduler.bin", "sampler.bin"]),
    "one folder inside": (
        "checkpoint-500/pytorch_model.bin",
        ["trainer_state.json", "checkpoint-500/optimizer.pt"],
    ),
}


@pytest.mark.parametrize("writer", FOLDERS)
def test_the_weights_are_found(tmp_path: Path, weights: bytes, writer: str) -> None:
    name, others = FOLDERS[writer]
    folder = fill(tmp_path / "run", {name: weights, **dict.fromkeys(others, b"{}")})
    assert find_weights(folder) == folder / name


def test_sharded_pickles_are_read(tmp_path: Path) -> None:
    """transformers before safetensors, and DeepSpeed's zero_to_fp32.py."""
    save_checkpoint(CHECKPOINT, "hf", tmp_path / "hf")
    from safetensors.torch import load_file

    state = load_file(tmp_path / "hf" / "model.safetensors")
    keys = sorted(state)
    halves = {"pytorch_model-00001-of-00002.bin": keys[:20], "pytorch_model-00002-of-00002.bin": keys[20:]}
    for name, part in halves.items():
        torch.save({key: state[key].clone() for key in part}, tmp_path / "hf" / name)
    (tmp_path / "hf" / "model.safetensors").unlink()
    weight_map = {key: name for name, part in halves.items() for key in part}
    index = tmp_path / "hf" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    loaded = load_checkpoint(tmp_path / "hf")
    assert all(torch.equal(loaded.state[key], CHECKPOINT.state[key]) for key in ("norm.weight", "cls_token"))


@pytest.mark.parametrize("named", ["models--org--name", "models--org--name/snapshots"])
def test_a_repository_in_the_hub_cache(tmp_path: Path, weights: bytes, named: str) -> None:
    repository = fill(
        tmp_path / "hub" / "models--org--name",
        {
            "refs/main": b"bbb\n",
            "snapshots/aaa/model.safetensors": b"old",
            "snapshots/bbb/pytorch_model.bin": weights,
        },
    )
    assert find_weights(tmp_path / "hub" / named) == repository / "snapshots/bbb/pytorch_model.bin"
    (repository / "refs/main").unlink()
    with pytest.raises(CheckpointError, match=r"holds 2 snapshots \(aaa, bbb\) and no refs/main"):
        find_weights(tmp_path / "hub" / named)
    with pytest.raises(
        CheckpointError, match=r"hub cache of 1 models \(models--org--name\); name one of its"
    ):
        find_weights(tmp_path / "hub")


# Folders without a whole model -> what the message must say.
REFUSED = {
    "adapter": (
        {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"},
        "PEFT adapter.*--adapter",
    ),
    "DeepSpeed": ({"global_step9/zero_pp_rank_0_mp_rank_00_optim_states.pt": b"x"}, "python zero_to_fp32.py"),
    "DeepSpeed's step": ({"bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": b"x"}, "python zero_to_fp32.py"),
    "distributed": ({"__0_0.distcp": b"x"}, "dcp_to_torch_save"),
    "two": (
        {"last.ckpt": b"x", "epoch=3-step=100.ckpt": b"x"},
        r"2 checkpoint files \(epoch=3-step=100.ckpt, last",
    ),
    "two folders": (
        {"checkpoint-1/model.safetensors": b"x", "checkpoint-2/model.safetensors": b"x"},
        "its folders checkpoint-1, checkpoint-2 hold some",
    ),
    "empty": ({"notes.txt": b"x"}, r"0 checkpoint files \(none\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_folders_without_one_model_name_the_way_out(tmp_path: Path, kind: str) -> None:
    files, words = REFUSED[kind]
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(fill(tmp_path / "folder", files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "zero_pp_rank_0_mp_rank_00_optim_states.pt"])
def test_a_part_named_alone_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"--adapter|zero_to_fp32"):
        load_checkpoint(fill(tmp_path, {name: b"x"}) / name)
