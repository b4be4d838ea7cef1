"""From a configuration to a model, bare or on the weights of a file in any layout.

Source: docs/spec.md 1.3, 8.1 S28.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dinov3_ref.checkpoints import Checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints import build_model as build_from_checkpoint
from dinov3_ref.configs import get_default_config
from dinov3_ref.errors import ArchMismatch, CheckpointError, ConfigError
from dinov3_ref.models import ViTConfig, build_model, build_model_for_eval
from dinov3_ref.models.released import VITS
from tests.support.images.photographs import pixels

FILES = {"official": "vits16.pth", "hf": "hf", "timm": "timm"}


def config_for(arch: str, **student: Any) -> Any:
    config = get_default_config()
    config.student.arch = arch
    for name, value in student.items():
        config.student[name] = value
    return config


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint("vit_small")


@pytest.fixture(scope="module")
def files(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ViT-S in three layouts."""
    directory = tmp_path_factory.mktemp("layouts")
    for layout, name in FILES.items():
        save_checkpoint(checkpoint, layout, directory / name)  # type: ignore[arg-type]
    return {layout: directory / name for layout, name in FILES.items()}


# ---- with weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", FILES)
def test_weights_of_every_layout(layout: str, files: dict[str, Path], checkpoint: Checkpoint) -> None:
    model = build_model_for_eval(config_for("vit_small"), files[layout], shard_unsharded_model=False)
    assert not model.training
    x = pixels(["chelsea"], 48, 80)
    with torch.no_grad():
        got, wanted = (m(x, is_training=True) for m in (model, build_from_checkpoint(checkpoint)))
    for name in ("x_norm_clstoken", "x_storage_tokens", "x_norm_patchtokens"):
        assert torch.equal(got[name], wanted[name]), name


def test_the_file_decides_what_the_configuration_does_not_mention(files: dict[str, Path]) -> None:
    """Without this, storage tokens, LayerScale and eps fall away in silence (docs/spec.md 8.1)."""
    config = config_for("vit_small")
    assert (config.student.n_storage_tokens, config.student.norm_layer) == (0, "layernorm")
    model: Any = build_model_for_eval(config, str(files["official"]))
    assert model.n_storage_tokens == 4
    assert model.norm.eps == 1e-5
    assert model.blocks[0].ls1.gamma.shape == (384,)
    assert model.blocks[0].sample_drop_ratio == 0.0
    assert model.rope_embed.dtype == torch.float32


@pytest.mark.parametrize("layout", FILES)
def test_another_architecture_than_the_files_is_refused(layout: str, files: dict[str, Path]) -> None:
    with pytest.raises(ArchMismatch, match=r"holds vit_small .*, but vit_base was asked for"):
        build_model_for_eval(config_for("vit_base"), files[layout])


def test_another_patch_size_than_the_files_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(ArchMismatch, match=r"has patch size 16, config\.student\.patch_size is 14; set it"):
        build_model_for_eval(config_for("vit_small", patch_size=14), files["official"])


def test_sharding_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="shard_unsharded_model=True needs distributed training; pass False"
    ):
        build_model_for_eval(config_for("vit_small"), tmp_path / "absent.pth", shard_unsharded_model=True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        build_model_for_eval(config_for("vit_small"), tmp_path / "absent.pth")


# ---- without ------------------------------------------------------------------------------------


def test_no_weights_gives_a_model_that_runs() -> None:
    """Official code leaves half of it on the meta device (docs/spec.md 8.2)."""
    torch.manual_seed(0)
    model = build_model_for_eval(config_for("vit_small"), None)
    assert not model.training
    with torch.no_grad():
        out = model(pixels(["coffee"], 32, 48))
    assert out.shape == (1, 384)
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("arch", VITS)
def test_every_architecture_by_its_name(arch: str) -> None:
    model = build_model(config_for(arch), device="meta")
    known = VITS[arch]
    assert (model.embed_dim, model.n_blocks, model.num_heads) == (
        known.embed_dim,
        known.depth,
        known.num_heads,
    )
    swiglu = "blocks.0.mlp.w1.weight" in model.state_dict()
    assert swiglu is arch.endswith("_plus")  # the 7B's own constructor is an MLP too (docs/spec.md 1.1)


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"student\.arch is 'vit_tiny'; known: vit_small, "):
        build_model(config_for("vit_tiny"))


def test_a_released_model_can_be_described_and_is_then_the_same() -> None:
    """The "plus" models, too: officially their FFN ratio never reaches the model.

    Source: docs/spec.md 0, fact 20.
    """
    for arch in ("vit_small_plus", "vit_7b"):
        known: ViTConfig = VITS[arch]
        student = {
            name: value for name, value in known.kwargs().items() if name in get_default_config().student
        }
        model = build_model(config_for(arch, **student), device="meta")
        with torch.device("meta"):
            wanted = type(model)(**known.kwargs())
        assert {k: v.shape for k, v in model.state_dict().items()} == (
            {k: v.shape for k, v in wanted.state_dict().items()}
        )


def test_options_of_the_configuration_reach_the_model() -> None:
    config = config_for(
        "vit_small",
        patch_size=8,
        in_chans=4,
        drop_path_rate=0.1,
        layerscale=None,
        ffn_layer="swiglu64",
        ffn_ratio=2.0,
        qkv_bias=False,
        norm_layer="rmsnorm",
        n_storage_tokens=2,
        untie_cls_and_patch_norms=True,
        pos_embed_rope_base=None,
        pos_embed_rope_min_period=0.5,
        pos_embed_rope_max_period=90.0,
        pos_embed_rope_normalize_coords="max",
        pos_embed_rope_jitter_coords=1.2,
        pos_embed_rope_dtype="fp32",
    )
    config.crops.global_crops_size = 256
    model: Any = build_model(config, device="meta")
    block, rope = model.blocks[3], model.rope_embed
    assert model.patch_embed.proj.weight.shape == (384, 4, 8, 8)
    assert model.patch_embed.img_size == (256, 256)
    assert block.mlp.w1.weight.shape == (512, 384)
    assert (block.sample_drop_ratio, block.attn.qkv.bias) == (0.1, None)
    assert isinstance(block.ls1, torch.nn.Identity)
    assert type(model.cls_norm).__name__ == "RMSNorm"
    assert model.n_storage_tokens == 2
    assert (rope.base, rope.min_period, rope.max_period) == (None, 0.5, 90.0)
    assert (rope.normalize_coords, rope.jitter_coords, rope.dtype) == ("max", 1.2, torch.float32)
