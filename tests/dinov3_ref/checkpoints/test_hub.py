"""The hub, played by a small HTTP server on this machine: mirror, gate, corruption, offline, no network."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dinov3_ref.checkpoints import fetch, load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.errors import CheckpointError, ConfigError, HubError
from tests.support.checkpoint_files import TINY_VITS
from tests.support.hub.server import Hub, serve_hub

OFFICIAL = "facebook/dinov3-vits16-pretrain-lvd1689m"
MIRROR = "timm/vit_small_patch16_dinov3.lvd1689m"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the mirror of ViT-S (two blocks of it will do), an empty cache and no token."""
    save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "timm", tmp_path / "mirror")
    with serve_hub(tmp_path, monkeypatch) as hub:
        hub.hold(MIRROR, tmp_path / "mirror")
        yield hub


def with_token(monkeypatch: pytest.MonkeyPatch, hub: Hub, directory: Path, **kwargs) -> Hub:
    """Log in, and put an official repository on the hub."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "hf", directory, **kwargs)
    hub.hold(OFFICIAL, directory)
    return hub


def refusal(*args, **kwargs) -> str:
    with pytest.raises(HubError) as caught:
        fetch(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["vit_small", "dinov3_vits16", OFFICIAL, MIRROR, MIRROR.removeprefix("timm/")]
)
def test_without_a_token_the_mirror_serves(hub: Hub, name: str) -> None:
    fetched = fetch(name)
    assert fetched.source == f"{MIRROR}@{hub.head(MIRROR)}"
    assert {repo for _, repo, _ in hub.asked} == {MIRROR}
    why = "no token for the gated official repository"
    assert fetched.notes == (f"weights are from the mirror {MIRROR} ({why})",)


def test_fetched_weights_load(hub: Hub) -> None:
    loaded = load_checkpoint(fetch("vit_small"))
    assert (loaded.layout, loaded.dataset, loaded.source) == (
        "timm",
        "lvd1689m",
        f"{MIRROR}@{hub.head(MIRROR)}",
    )
    assert loaded.notes[0].startswith("weights are from the mirror")
    wanted = random_checkpoint(TINY_VITS["mlp"]).state["blocks.1.mlp.fc2.weight"]
    assert torch.equal(loaded.state["blocks.1.mlp.fc2.weight"], wanted)


def test_with_a_token_the_official_repository_serves(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    with_token(monkeypatch, hub, tmp_path / "hf")
    fetched = fetch("vit_small")
    assert fetched.source == f"{OFFICIAL}@{hub.head(OFFICIAL)}"
    assert fetched.notes == ()
    assert sorted(path.name for path in fetched.path.iterdir()) == sorted(hub.files(OFFICIAL))
    assert set(hub.tokens) == {"Bearer hf_secret"}
    assert load_checkpoint(fetched).layout == "hf"


def test_shards_are_fetched_by_their_index(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    with_token(monkeypatch, hub, tmp_path / "hf", max_shard_bytes=400_000)
    fetched = fetch("vit_small")
    assert len(list(fetched.path.glob("model-*.safetensors"))) > 2
    assert load_checkpoint(fetched).layout == "hf"


def test_index_that_leaves_the_repository_is_refused(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    with_token(monkeypatch, hub, tmp_path / "hf")
    files = hub.files(OFFICIAL)
    del files["model.safetensors"]
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../../a.safetensors"}}).encode()
    with pytest.raises(CheckpointError, match="points outside"):
        fetch("vit_small")


def test_closed_gate_falls_back_to_the_mirror(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    with_token(monkeypatch, hub, tmp_path / "hf").gated.add(OFFICIAL)
    fetched = fetch("vit_small")
    assert fetched.source.startswith(MIRROR)
    assert f"ask at https://huggingface.co/{OFFICIAL}" in fetched.notes[0]


def test_both_closed(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    with_token(monkeypatch, hub, tmp_path / "hf").gated.update({OFFICIAL, MIRROR})
    message = refusal("vit_small")
    assert f"{OFFICIAL}: access not granted" in message
    for way_out in ("a local file", "hf auth login", "HF_HUB_OFFLINE", "--weights random"):
        assert way_out in message


def test_missing_repository_and_missing_file(hub: Hub) -> None:
    del hub.files(MIRROR)["model.safetensors"]
    assert "has no model.safetensors.index.json" in refusal("vit_small")
    del hub.repositories[MIRROR]
    assert "not found, or the token is not valid" in refusal("vit_small")


def test_corrupted_file_is_refused_now_and_from_the_cache(hub: Hub) -> None:
    hub.corrupted.add("model.safetensors")
    recorded = hashlib.sha256(hub.files(MIRROR)["model.safetensors"]).hexdigest()
    message = refusal("vit_small")
    assert f"the hub recorded {recorded}" in message
    assert refusal("vit_small", offline=True) == message
    blob = Path(message.split("delete ")[1].split(" and fetch")[0])
    blob.unlink()  # what the message says
    hub.corrupted.clear()
    assert load_checkpoint(fetch("vit_small")).layout == "timm"


def test_file_damaged_in_the_cache_is_refused(hub: Hub) -> None:
    path = (fetch("vit_small").path / "model.safetensors").resolve()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "is damaged" in refusal("vit_small", offline=True)


def test_hub_without_hashes_is_noted(hub: Hub) -> None:
    hub.unhashed = True
    assert "records no SHA-256 for model.safetensors: not checked" in fetch("vit_small").notes[-1]


def test_offline_uses_the_cache_alone(hub: Hub, monkeypatch) -> None:
    assert "not in the cache" in refusal("vit_small", offline=True)
    assert hub.asked == []
    fetched = fetch("vit_small")
    hub.asked.clear()
    assert fetch("vit_small", offline=True).path == fetched.path
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch("vit_small").path == fetched.path
    assert hub.asked == []


def test_second_fetch_downloads_nothing(hub: Hub) -> None:
    fetch("vit_small")
    hub.asked.clear()
    fetch("vit_small")
    assert "GET" not in {method for method, _, _ in hub.asked}


def test_no_network_is_said_at_once(hub: Hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    start = time.monotonic()
    message = refusal("vit_small")
    assert time.monotonic() - start < 5
    assert "Connection refused" in message


def test_no_network_but_a_warm_cache_serves(hub: Hub, monkeypatch) -> None:
    fetched = fetch("vit_small")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = fetch("vit_small")
    assert again.path == fetched.path
    assert again.notes[-1].endswith("used the cache")


def test_disk_without_room(hub: Hub, monkeypatch) -> None:
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    assert "no space left on the disk under" in refusal("vit_small")


@pytest.mark.parametrize(
    ("name", "dataset"), [("vit_giant2", None), ("resnet50", None), ("vit_small", "sat493m")]
)
def test_what_was_never_released(name: str, dataset: str | None) -> None:
    with pytest.raises(ConfigError, match="was never released; known: dinov3_vits16,"):
        fetch(name, dataset=dataset)


def test_data_set_chooses_between_two_files(hub: Hub) -> None:
    refusal("vit_large", dataset="sat493m")
    refusal("dinov3_vitl16_sat")
    assert {repo for _, repo, _ in hub.asked} == {"timm/vit_large_patch16_dinov3.sat493m"}


def test_model_without_a_repository(hub: Hub) -> None:
    assert "neither the hub nor the mirror has it" in refusal("vit_large_plus")
