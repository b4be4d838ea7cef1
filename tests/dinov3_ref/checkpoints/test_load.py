"""From a file of any layout to a model: what is filled in, what is noted, what is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import TWINS, write_official
from safetensors.torch import load_file, save_file

from dinov3_ref.checkpoints import (
    build_model,
    expected_shapes,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.checkpoints.periods import rope_periods
from dinov3_ref.errors import ArchMismatch, CheckpointError, ConfigError, ForeignCheckpoint

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(0))


def features(checkpoint) -> torch.Tensor:
    with torch.no_grad():
        out = build_model(checkpoint).forward_features(PIXELS)
    return torch.cat((out["x_norm_clstoken"][:, None], out["x_norm_patchtokens"]), dim=1)


@pytest.mark.parametrize("twin", TWINS)
def test_one_model_in_every_layout_gives_the_same_features(tmp_path: Path, twin: str) -> None:
    checkpoint = random_checkpoint(TWINS[twin])
    wanted = features(checkpoint)
    for layout, name in [
        ("official", "a.pth"),
        ("official", "a.safetensors"),
        ("hf", "hf"),
        ("timm", "timm"),
    ]:
        save_checkpoint(checkpoint, layout, tmp_path / name)
        loaded = load_checkpoint(tmp_path / name)
        assert loaded.layout == layout
        assert {key: tuple(t.shape) for key, t in loaded.state.items()} == expected_shapes(loaded.config)
        assert torch.equal(features(loaded), wanted), layout  # same numbers, same arithmetic


def test_official_file_is_complete_and_needs_no_notes(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TWINS["mlp"])
    loaded = load_checkpoint(write_official(tmp_path / "a.pth", checkpoint))
    assert loaded.notes == ()
    assert (loaded.config, loaded.arch, loaded.dataset) == (TWINS["mlp"], "custom", None)
    assert all(torch.equal(loaded.state[key], tensor) for key, tensor in checkpoint.state.items())
    assert loaded.state["rope_embed.periods"].dtype == torch.float32


def test_stored_periods_are_honoured(tmp_path: Path) -> None:
    odd = torch.arange(1, 17, dtype=torch.float32).to(torch.bfloat16)
    path = write_official(
        tmp_path / "a.pth",
        random_checkpoint(TWINS["mlp"]),
        change=lambda s: s.update({"rope_embed.periods": odd}),
    )
    assert torch.equal(load_checkpoint(path, periods="fp32").state["rope_embed.periods"], odd.float())


@pytest.mark.parametrize("rounding", ["bf16", "fp32"])
def test_absent_periods_are_computed_as_asked(tmp_path: Path, rounding) -> None:
    path = write_official(
        tmp_path / "a.pth", random_checkpoint(TWINS["mlp"]), change=lambda s: s.pop("rope_embed.periods")
    )
    loaded = load_checkpoint(path, periods=rounding)
    assert torch.equal(loaded.state["rope_embed.periods"], rope_periods(TWINS["mlp"], rounding))
    assert any("RoPE periods: absent" in note for note in loaded.notes)


def test_rounded_periods_are_the_published_ones() -> None:
    published = [1, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5]
    published += [10, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75]  # SPEC 2.2
    assert rope_periods(TWINS["mlp"], "bf16").tolist() == published


def test_masked_bias_is_not_added(tmp_path: Path) -> None:
    """Released masks are all zero: whatever the bias says, nothing may be added."""
    checkpoint = random_checkpoint(TWINS["mlp"])

    def close_masks(state) -> None:
        for key in state:
            if key.endswith("bias_mask"):
                state[key].zero_()

    closed = load_checkpoint(write_official(tmp_path / "closed.pth", checkpoint, change=close_masks))
    assert not torch.allclose(features(closed), features(checkpoint), atol=1e-3)
    for layout in ("hf", "timm"):
        save_checkpoint(closed, layout, tmp_path / layout)
        assert torch.equal(features(load_checkpoint(tmp_path / layout)), features(closed)), layout


def test_dropped_tensors_are_filled_in_with_notes(tmp_path: Path) -> None:
    checkpoint = random_checkpoint("vit_small")
    save_checkpoint(checkpoint, "timm", tmp_path / "timm")
    loaded = load_checkpoint(tmp_path / "timm")
    assert loaded.arch == "vit_small"
    assert not loaded.state["mask_token"].any()
    assert [note.split(":")[0] for note in loaded.notes] == ["mask_token", "RoPE periods", "qkv bias masks"]


def test_half_precision_is_noted_and_converted(tmp_path: Path) -> None:
    def halve(state) -> None:
        state.update({key: tensor.to(torch.bfloat16) for key, tensor in state.items()})

    path = write_official(tmp_path / "a.pth", random_checkpoint(TWINS["mlp"]), change=halve)
    loaded = load_checkpoint(path)
    assert loaded.state["norm.weight"].dtype == torch.bfloat16
    assert any("stored as bfloat16" in note for note in loaded.notes)
    assert {p.dtype for p in build_model(loaded).parameters()} == {torch.float32}


def test_model_shares_the_checkpoints_memory_and_is_in_eval_mode(tmp_path: Path) -> None:
    loaded = load_checkpoint(write_official(tmp_path / "a.pth", random_checkpoint(TWINS["mlp"])))
    model = build_model(loaded)
    assert not model.training
    assert model.state_dict().keys() == loaded.state.keys()
    for key, tensor in model.state_dict().items():
        assert tensor.data_ptr() == loaded.state[key].data_ptr(), key
    assert model.norm.weight.requires_grad


def test_model_in_another_dtype_keeps_its_periods(tmp_path: Path) -> None:
    model = build_model(random_checkpoint(TWINS["mlp"]), dtype=torch.float64)
    assert model.norm.weight.dtype == torch.float64
    assert model.rope_embed.periods.dtype == torch.float32


@pytest.mark.parametrize(
    "asked",
    [
        "vit_small",
        "dinov3_vits16",
        "facebook/dinov3-vits16-pretrain-lvd1689m",
        "vit_small_patch16_dinov3.lvd1689m",
    ],
)
def test_every_name_of_an_architecture_is_accepted(tmp_path: Path, asked: str) -> None:
    path = write_official(tmp_path / "a.pth", random_checkpoint("vit_small"))
    assert load_checkpoint(path, arch=asked).arch == "vit_small"


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = write_official(tmp_path / "a.pth", random_checkpoint("vit_small"))
    with pytest.raises(ArchMismatch, match=r"holds vit_small \(embed_dim 384.*but vit_base was asked for"):
        load_checkpoint(path, arch="vit_base")
    with pytest.raises(ConfigError, match="unknown architecture 'vit_smal'"):
        load_checkpoint(path, arch="vit_smal")


def test_custom_shapes_match_no_name(tmp_path: Path) -> None:
    path = write_official(tmp_path / "a.pth", random_checkpoint(TWINS["mlp"]))
    with pytest.raises(ArchMismatch, match="holds custom .*leave --arch out"):
        load_checkpoint(path, arch="vit_small")


def test_name_with_a_data_set_is_held_to_it(tmp_path: Path) -> None:
    checkpoint = replace(random_checkpoint("vit_small"), dataset="sat493m")
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    with pytest.raises(ArchMismatch, match="sat493m"):
        load_checkpoint(tmp_path / "hf", arch="facebook/dinov3-vits16-pretrain-lvd1689m")
    assert load_checkpoint(tmp_path / "hf", arch="vit_small").dataset == "sat493m"


def rename(path: Path, *pairs: tuple[str, str]) -> Path:
    tensors = load_file(path)
    for old, new in pairs:
        tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    "pairs",
    [
        [("layer.", "model.layer.")],
        [
            ("layer.", "dinov3_vit.layer."),
            ("embeddings.", "dinov3_vit.embeddings."),
            ("norm.", "dinov3_vit.norm."),
        ],
        [
            ("q_proj", "query"),
            ("k_proj", "key"),
            ("v_proj", "value"),
            ("patch_embeddings", "patch_embeddings.proj"),
        ],
    ],
    ids=["in memory", "under an outer model", "first conversions"],
)
def test_older_and_newer_hugging_face_names(tmp_path: Path, pairs) -> None:
    checkpoint = random_checkpoint(TWINS["mlp"])
    path = save_checkpoint(checkpoint, "hf", tmp_path / "hf")[0]
    wanted = load_checkpoint(path)
    if "dinov3_vit.norm." in str(pairs):  # only the last norm moves, the blocks' own do not
        tensors = {f"dinov3_vit.{key}": tensor for key, tensor in load_file(path).items()}
        save_file(tensors, path)
    else:
        rename(path, *pairs)
    loaded = load_checkpoint(path)
    assert all(torch.equal(loaded.state[key], tensor) for key, tensor in wanted.state.items())


def test_stored_hugging_face_periods_are_honoured(tmp_path: Path) -> None:
    path = save_checkpoint(random_checkpoint(TWINS["mlp"]), "hf", tmp_path / "hf")[0]
    odd = torch.arange(1, 17, dtype=torch.float32)
    stored = {"rope_embeddings.periods": odd, "rope_embeddings.inv_freq": 1 / odd}
    save_file({**load_file(path), **stored}, path)
    assert torch.equal(load_checkpoint(path).state["rope_embed.periods"], odd)


def test_hugging_face_key_bias_is_honoured(tmp_path: Path) -> None:
    config = replace(TWINS["mlp"], mask_k_bias=False)
    checkpoint = random_checkpoint(config)
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    loaded = load_checkpoint(tmp_path / "hf")
    assert loaded.config == config
    assert torch.equal(features(loaded), features(checkpoint))


def edit_config(path: Path, **fields) -> None:
    import json

    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model_type": "dinov2"}, ForeignCheckpoint, "model_type 'dinov2'"),
        ({"layer_norm_eps": 1e-3}, CheckpointError, "layer_norm_eps 0.001; wanted 1e-05 or 1e-06"),
        ({"hidden_act": "relu"}, CheckpointError, "hidden_act 'relu'; wanted 'gelu'"),
        ({"num_attention_heads": 7}, CheckpointError, "7 heads"),
    ],
)
def test_config_json_that_is_another_model(tmp_path: Path, fields, error, words: str) -> None:
    save_checkpoint(random_checkpoint(TWINS["mlp"]), "hf", tmp_path / "hf")
    edit_config(tmp_path / "hf", **fields)
    with pytest.raises(error, match=words):
        load_checkpoint(tmp_path / "hf")


def test_config_json_is_honoured(tmp_path: Path) -> None:
    save_checkpoint(random_checkpoint(TWINS["mlp"]), "hf", tmp_path / "hf")
    edit_config(tmp_path / "hf", rope_theta=1000.0, layer_norm_eps=1e-6, num_attention_heads=4)
    config = load_checkpoint(tmp_path / "hf").config
    assert (config.pos_embed_rope_base, config.norm_layer, config.num_heads) == (1000.0, "layernorm", 4)


def test_released_shapes_give_the_tables_own_configuration(tmp_path: Path) -> None:
    """The 7B is the one whose ratio and FFN name cannot be read off the tensors."""
    from dinov3_ref.checkpoints.architecture import infer_config, name_architecture
    from dinov3_ref.checkpoints.layouts import LAYOUTS
    from dinov3_ref.models.released import RELEASED

    for row in RELEASED:
        for layout in LAYOUTS:
            inferred = infer_config(layout, layout.shapes(row.config), {}, "file")
            arch, config = name_architecture(inferred, biases_may_lack=layout.name != "official")
            untied = row.config.untie_global_and_local_cls_norm if layout.name == "official" else False
            assert arch == row.arch
            assert config == replace(row.config, untie_global_and_local_cls_norm=untied), (
                row.name,
                layout.name,
            )


def test_plain_timm_variant_has_zero_biases(tmp_path: Path) -> None:
    checkpoint = random_checkpoint("vit_small")
    state = {k: torch.zeros_like(t) if k.endswith("qkv.bias") else t for k, t in checkpoint.state.items()}
    path = save_checkpoint(replace(checkpoint, state=state), "timm", tmp_path / "timm")[0]
    assert not any("bias" in key and "attn.q" in key for key in load_file(path))
    loaded = load_checkpoint(path)
    assert (loaded.arch, loaded.config) == ("vit_small", checkpoint.config)
    assert not loaded.state["blocks.3.attn.qkv.bias"].any()
