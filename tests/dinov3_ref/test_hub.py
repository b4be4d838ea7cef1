"""Entry points of torch.hub: released configurations, weights from files and URLs."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

import dinov3_ref
import hubconf
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.errors import CheckpointError, ConfigError
from dinov3_ref.hub import Weights
from dinov3_ref.models.released import RELEASED

ROOT = Path(__file__).parents[2]
NAMES = [row.name for row in RELEASED if not row.name.endswith("_sat")]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as Meta's: official layout, the first digits of its hash in its name."""
    folder = tmp_path_factory.mktemp("hub")
    torch.save(dict(random_checkpoint("dinov3_vits16", 0).state), folder / "draft.pth")
    digest = hashlib.sha256((folder / "draft.pth").read_bytes()).hexdigest()
    return shutil.move(folder / "draft.pth", folder / f"dinov3_vits16_pretrain_lvd1689m-{digest[:8]}.pth")


@pytest.fixture(scope="module")
def wanted() -> torch.Tensor:
    return features(build_model(random_checkpoint("dinov3_vits16", 0)))


def features(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.linspace(-1, 1, 3 * 32 * 48).reshape(1, 3, 32, 48))
    return found


def test_every_official_backbone_has_an_entry_point() -> None:
    assert sorted(hubconf.__all__) == sorted(NAMES)
    assert set(hubconf.__all__) <= {name for name, value in vars(hubconf).items() if callable(value)}


def test_torch_hub_loads_a_file(released: Path, wanted: torch.Tensor) -> None:
    model = torch.hub.load(str(ROOT), "dinov3_vits16", weights=str(released), source="local", check_hash=True)
    assert torch.equal(features(model), wanted)
    assert not model.training
    assert model.n_storage_tokens == 4


@pytest.mark.parametrize("form", ["path", "uri", "name of Hugging Face"])
def test_load(form: str, released: Path, wanted: torch.Tensor) -> None:
    name = "facebook/dinov3-vits16-pretrain-lvd1689m" if form.startswith("name") else "dinov3_vits16"
    model = dinov3_ref.load(name, released.as_uri() if form == "uri" else released)
    assert torch.equal(features(model), wanted)


def test_a_download_is_kept(
    released: Path, wanted: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(url: str, target: str) -> None:
        asked.append(url)
        shutil.copy(released, target)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = f"https://example.org/{released.name}?Policy=abc"
    for _ in range(2):
        assert torch.equal(features(dinov3_ref.load("dinov3_vits16", url)), wanted)
    assert asked == [url]
    assert (tmp_path / "checkpoints" / released.name).is_file()


def test_an_expired_link_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, target: str) -> None:
        raise OSError("HTTP Error 403: Forbidden")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(CheckpointError, match="403: Forbidden; Meta's links expire"):
        dinov3_ref.load("dinov3_vits16", "https://example.org/x.pth")


def test_random_weights_have_the_released_configuration() -> None:
    model = dinov3_ref.load("dinov3_vits16", pretrained=False, drop_path_rate=0.1)
    assert model.n_storage_tokens == 4
    assert torch.isfinite(features(model)).all()
    assert dinov3_ref.load("dinov3_convnext_tiny", pretrained=False).embed_dim == 768


def test_satellite_weights_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def record(name: str, *, dataset: str) -> None:
        asked.append((name, dataset))
        raise CheckpointError("no network in tests")

    monkeypatch.setattr("dinov3_ref.hub.fetch", record)
    for weights in (Weights.SAT493M, "SAT493M"):
        with pytest.raises(CheckpointError):
            dinov3_ref.load("dinov3_vitl16", weights)
    assert asked == [("dinov3_vitl16", "sat493m")] * 2


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dinov3_vits14", {}, "'dinov3_vits14' was never released; known: dinov3_vits16"),
        ("dinov3_vits16", {"drop_path": 0.1}, "dinov3_vits16 has no option 'drop_path'; known: embed_dim"),
    ],
)
def test_misuse(name: str, options: dict[str, float], words: str, released: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        dinov3_ref.load(name, released, **options)


def test_a_file_of_another_model_or_a_damaged_one(released: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="vit_small"):
        dinov3_ref.load("dinov3_vitb16", released)
    renamed = shutil.copy(released, tmp_path / "dinov3_vits16_pretrain_lvd1689m-00000000.pth")
    with pytest.raises(CheckpointError, match="wanted the eight digits at the end of its name"):
        dinov3_ref.load("dinov3_vits16", renamed, check_hash=True)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = dinov3_ref.laod
