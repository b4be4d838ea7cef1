"""Files and directories as they are found on disks: whole, damaged, foreign and malicious."""

from __future__ import annotations

import argparse
import collections
import datetime
import hashlib
import json
import os
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.files import read_checkpoint, sha256_of
from dinov3_ref.errors import CheckpointError, KeyMismatch
from tests.support.checkpoint_files import TINY_VITS, write_official

CHECKPOINT = random_checkpoint(TINY_VITS["mlp"])


class CreatesAFile:
    """Unpickling this with a naive reader would create the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def refusal(path: Path) -> str:
    """The message for `path`, which must be one line."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message or path.name in message
    return message


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_is_read_and_hashed(tmp_path: Path, legacy: bool) -> None:
    path = write_official(tmp_path / "model.pth", CHECKPOINT, legacy=legacy)
    raw = read_checkpoint(path)
    assert raw.tree.keys() == CHECKPOINT.state.keys()
    assert raw.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_suffix_does_not_matter(tmp_path: Path) -> None:
    save_checkpoint(CHECKPOINT, "official", tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth").layout == "official"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.999])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    path = save_checkpoint(CHECKPOINT, "official", tmp_path / f"a{suffix}")[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert "damaged or truncated" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello, these are no weights at all\n", "is not a checkpoint"),
        (b"<!DOCTYPE html><html>403</html>", "web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "error answer"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all", "damaged or truncated"),
        (b"\x80\x02garbage", "damaged or truncated"),
        (b"PK\x03\x04garbage", "damaged or truncated"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert words in refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    trap, path = tmp_path / "sprung", tmp_path / "weights.pth"
    tree = {**CHECKPOINT.state, "epoch": CreatesAFile(trap)}
    torch.save(tree, path, _use_new_zipfile_serialization=zipped)
    assert "could run code" in refusal(path)
    assert not trap.exists()


def test_plain_pickle_runs_nothing(tmp_path: Path) -> None:
    trap, path = tmp_path / "sprung", tmp_path / "weights.bin"
    path.write_bytes(pickle.dumps(CreatesAFile(trap)))
    refusal(path)
    assert not trap.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_options_of_training_libraries_are_not_opened(tmp_path: Path, legacy: bool) -> None:
    """Lightning and timm store their options beside the weights: they are read as plain dictionaries."""
    state = {"norm.weight": torch.ones(2)}
    beside = {
        "hyper_parameters": argparse.Namespace(lr=1e-3, folder=pathlib.PurePosixPath("/data")),
        "best": np.float64(0.5),
        "started": datetime.datetime(2026, 1, 1),
        "counts": collections.defaultdict(int, a=1),
    }
    torch.save(
        {"state_dict": state, **beside}, tmp_path / "last.ckpt", _use_new_zipfile_serialization=not legacy
    )
    if legacy:
        assert "Python objects" in refusal(tmp_path / "last.ckpt")
        return
    tree = read_checkpoint(tmp_path / "last.ckpt").tree
    assert torch.equal(tree["state_dict"]["norm.weight"], state["norm.weight"])
    assert type(tree["hyper_parameters"]) is collections.OrderedDict
    assert tree["counts"] == {"a": 1}


def test_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    assert "Python objects" in refusal(tmp_path / "model.pth")


def test_pickled_list_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "model.pth")
    assert "holds a list" in refusal(tmp_path / "model.pth")


def test_missing_path(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere.pth")


def test_directory_with_one_file_of_any_name(tmp_path: Path) -> None:
    write_official(tmp_path / "whatever.pth", CHECKPOINT)
    (tmp_path / "README.md").write_text("words")
    assert load_checkpoint(tmp_path).layout == "official"


def test_directory_prefers_safetensors(tmp_path: Path) -> None:
    save_checkpoint(CHECKPOINT, "official", tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never looked at")
    assert load_checkpoint(tmp_path).sha256 == sha256_of(tmp_path / "model.safetensors")


def test_directory_with_two_files_is_ambiguous(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        write_official(tmp_path / name, CHECKPOINT)
    assert "holds 2 checkpoint files (a.pth, b.pth)" in refusal(tmp_path)


def test_empty_directory(tmp_path: Path) -> None:
    assert "holds 0 checkpoint files" in refusal(tmp_path)


def test_distributed_checkpoint_is_explained(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    assert "dcp_to_torch_save" in refusal(tmp_path)


def sharded(directory: Path) -> Path:
    written = save_checkpoint(CHECKPOINT, "hf", directory, max_shard_bytes=400_000)
    assert len([path for path in written if path.suffix == ".safetensors"]) > 2
    return directory


def edit_index(directory: Path, change) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    loaded = load_checkpoint(sharded(tmp_path / "hf"))
    assert loaded.state.keys() == CHECKPOINT.state.keys()
    shards = sorted((tmp_path / "hf").glob("*.safetensors"))
    lines = "".join(f"{path.name} {sha256_of(path)}\n" for path in shards)
    assert loaded.sha256 == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    "escape", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ""]
)
def test_index_may_not_leave_its_directory(tmp_path: Path, escape: str) -> None:
    save_file({"stolen": torch.zeros(1)}, tmp_path / "outside.safetensors")
    directory = sharded(tmp_path / "hf")
    edit_index(directory, lambda weight_map: weight_map.update(stolen=escape))
    assert "points outside its directory" in refusal(directory)


def test_missing_shard(tmp_path: Path) -> None:
    directory = sharded(tmp_path / "hf")
    next(directory.glob("model-00002-*")).unlink()
    assert "names model-00002-of" in refusal(directory)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    directory = sharded(tmp_path / "hf")
    edit_index(directory, lambda weight_map: weight_map.pop("norm.bias"))
    with pytest.raises(KeyMismatch, match=r"norm\.bias is only in the shard"):
        load_checkpoint(directory)


@pytest.mark.parametrize("content", ["[1, 2]", "{broken"])
def test_broken_json_beside_the_weights(tmp_path: Path, content: str) -> None:
    directory = tmp_path / "hf"
    save_checkpoint(CHECKPOINT, "hf", directory)
    (directory / "config.json").write_text(content)
    assert "JSON" in refusal(directory)


def test_tensors_are_mapped_not_read(tmp_path: Path) -> None:
    """Reading a big file must not allocate its size (anonymous memory of this process, in kB)."""
    path = tmp_path / "big.safetensors"
    save_file({"big": torch.ones(50_000_000)}, path)  # 200 MB

    def anonymous() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("needs /proc/self/smaps_rollup")
    before = anonymous()
    tree = read_checkpoint(path).tree
    assert float(tree["big"].sum()) == 50_000_000
    assert anonymous() - before < 60_000


def test_a_header_length_that_looks_like_a_pickle(tmp_path: Path) -> None:
    """One header in 256 is so long that its first byte is a pickle's: 0x80."""
    path = tmp_path / "model.safetensors"
    state = random_checkpoint(TINY_VITS["mlp"]).state
    for padding in range(0, 256, 8):
        save_file(state, path, metadata={"padding": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert load_checkpoint(path).layout == "official"
