"""The vision transformer: tokens, features, norms, intermediate layers, RoPE's table.

Source: docs/spec.md 1.2, 2.13-2.17.

Small models with lively weights (`checkpoints/random.py`) on photographs, off-square.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.models import DinoVisionTransformer, ViTConfig
from tests.support.images.photographs import pixels

D, DEPTH, STORAGE = 64, 3, 4
HEIGHT, WIDTH = 48, 80
GRID, PATCHES = (3, 5), 15


def make(**options: Any) -> Any:
    """A lively model in eval mode; `Any`, so that tests may reach into it."""
    return build_model(random_checkpoint(ViTConfig(D, DEPTH, 2, **options)))


def images() -> Tensor:
    return pixels(["chelsea", "rocket"], HEIGHT, WIDTH)


def crops() -> list[Tensor]:
    """Two sizes, as training sends them."""
    return [images(), pixels(["coffee", "china", "flower"], 32, 48)]


@pytest.fixture(autouse=True)
def without_gradients(request: pytest.FixtureRequest) -> Any:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


# ---- tokens (2.13) ------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [0, 1, STORAGE])
def test_order_of_tokens_is_cls_storage_patches(storage: int) -> None:
    model = make(n_storage_tokens=storage)
    tokens, grid = model.prepare_tokens_with_masks(images())
    assert grid == GRID
    assert tokens.shape == (2, 1 + storage + PATCHES, D)
    assert torch.equal(tokens[:, :1], model.cls_token.expand(2, -1, -1))
    assert torch.equal(tokens[:, 1 + storage :], model.patch_embed(images()).flatten(1, 2))
    if storage:
        assert torch.equal(tokens[:, 1 : 1 + storage], model.storage_tokens.expand(2, -1, -1))
    assert hasattr(model, "storage_tokens") is bool(storage)


def test_masked_patches_become_the_mask_token_and_others_stay() -> None:
    model = make()
    masks = torch.zeros(2, PATCHES, dtype=torch.bool)
    masks[0, [1, 7]] = masks[1, 14] = True
    plain, _ = model.prepare_tokens_with_masks(images())
    masked, _ = model.prepare_tokens_with_masks(images(), masks)
    prefix = 1 + STORAGE
    assert torch.equal(masked[:, :prefix], plain[:, :prefix])
    assert torch.equal(masked[:, prefix:][masks], model.mask_token.expand(3, -1))
    assert torch.equal(masked[:, prefix:][~masks], plain[:, prefix:][~masks])
    assert model.forward_features(images(), masks)["masks"] is masks


def test_mask_token_has_a_zero_gradient_in_training_without_masks() -> None:
    """So that distributed training finds it in every step's graph (docs/spec.md 2.13)."""
    model = make().train()
    model(images()).sum().backward()
    assert model.mask_token.grad is not None
    assert model.mask_token.grad.count_nonzero() == 0


# ---- features (2.14) ----------------------------------------------------------------------------


def test_features_of_a_tensor() -> None:
    model = make()
    features = model.forward_features(images())
    assert {name: None if x is None else tuple(x.shape) for name, x in features.items()} == {
        "x_norm_clstoken": (2, D),
        "x_storage_tokens": (2, STORAGE, D),
        "x_norm_patchtokens": (2, PATCHES, D),
        "x_prenorm": (2, 1 + STORAGE + PATCHES, D),
        "masks": None,
    }
    normed = model.norm(features["x_prenorm"])
    assert torch.equal(features["x_norm_clstoken"], normed[:, 0])
    assert torch.equal(features["x_storage_tokens"], normed[:, 1 : 1 + STORAGE])
    assert torch.equal(features["x_norm_patchtokens"], normed[:, 1 + STORAGE :])


def test_features_are_the_blocks_in_their_order() -> None:
    model = make()
    tokens, (h, w) = model.prepare_tokens_with_masks(images())
    rope = model.rope_embed(H=h, W=w)
    for block in model.blocks:
        tokens = block(tokens, rope)
    assert torch.equal(model.forward_features(images())["x_prenorm"], tokens)


def test_features_without_storage_tokens() -> None:
    assert make(n_storage_tokens=0).forward_features(images())["x_storage_tokens"].shape == (2, 0, D)


def test_a_list_gives_a_list_and_equals_its_entries() -> None:
    model = make()
    masks = [torch.rand(2, PATCHES, generator=torch.Generator().manual_seed(0)) < 0.3, None]
    for got, x, mask in zip(model.forward_features(crops(), masks), crops(), masks, strict=True):
        wanted = model.forward_features(x, mask)
        assert got["masks"] is mask
        for name in set(wanted) - {"masks"}:
            torch.testing.assert_close(got[name], wanted[name])
    assert len(model.forward_features(crops())) == 2  # no masks at all
    with pytest.raises(ValueError, match="2 inputs with 1 masks; wanted one each"):
        model.forward_features(crops(), [None])


def test_forward_gives_cls_or_everything() -> None:
    model = make()
    features = model.forward_features(images())
    assert torch.equal(model(images()), features["x_norm_clstoken"])
    everything = model(images(), is_training=True)
    assert everything.keys() == features.keys()
    assert torch.equal(everything["x_prenorm"], features["x_prenorm"])
    several = model(crops())
    assert [x.shape for x in several] == [(2, D), (3, D)]
    assert [set(entry) for entry in model(crops(), is_training=True)] == [set(features)] * 2
    model.head = nn.Linear(D, 7)
    assert model(images()).shape == (2, 7)
    assert torch.equal(model(images()), model.head(features["x_norm_clstoken"]))


# Untied: (CLS from patches, global from local crops); training; list index -> the prefix's norm
# (docs/spec.md 2.14).
NORMS = [
    ((False, False), True, 1, "norm"),
    ((False, True), False, 0, "norm"),
    ((False, True), False, 1, "norm"),
    ((False, True), True, 0, "norm"),
    ((False, True), True, 1, "local_cls_norm"),
    ((True, False), False, 0, "cls_norm"),
    ((True, False), True, 1, "cls_norm"),
    ((True, True), False, 1, "cls_norm"),
    ((True, True), True, 0, "cls_norm"),
    ((True, True), True, 1, "local_cls_norm"),
]


@pytest.mark.parametrize(("untied", "training", "index", "name"), NORMS)
def test_which_norm_the_prefix_gets(untied: tuple[bool, bool], training: bool, index: int, name: str) -> None:
    model = make(
        untie_cls_and_patch_norms=untied[0],
        untie_global_and_local_cls_norm=untied[1],
        pos_embed_rope_rescale_coords=None,
    ).train(training)
    features = model.forward_features(crops())[index]
    before = features["x_prenorm"]
    prefix = getattr(model, name)(before)[:, : 1 + STORAGE]
    torch.testing.assert_close(features["x_norm_clstoken"], prefix[:, 0])
    torch.testing.assert_close(features["x_storage_tokens"], prefix[:, 1:])
    torch.testing.assert_close(features["x_norm_patchtokens"], model.norm(before)[:, 1 + STORAGE :])
    norms = [norm for norm in (model.norm, model.cls_norm, model.local_cls_norm) if norm is not None]
    assert (
        len({norm.weight[0].item() for norm in norms}) == len(norms) == 1 + sum(untied)
    )  # can be told apart


# ---- intermediate layers (2.15) -----------------------------------------------------------------


def outputs_of_blocks(model: Any, x: Tensor) -> list[Tensor]:
    """[B,1+R+P,D] after every block, caught by hooks during a whole forward."""
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda module, given, out: outputs.append(out[0]))
        for block in model.blocks
    ]
    model.forward_features(x)
    for handle in handles:
        handle.remove()
    return outputs


@pytest.mark.parametrize("n", [1, 2, 3, [0], [0, 2], [2, 0], (1,), range(2)], ids=str)
@pytest.mark.parametrize("untied", [False, True])
def test_intermediate_layers_in_every_combination(n: int | Sequence[int], untied: bool) -> None:
    model = make(untie_cls_and_patch_norms=untied, untie_global_and_local_cls_norm=True)
    blocks = outputs_of_blocks(model, images())
    wanted = sorted(range(DEPTH - n, DEPTH) if isinstance(n, int) else n)
    for reshape, cls, extra, norm in itertools.product([False, True], repeat=4):
        got = model.get_intermediate_layers(
            images(), n=n, reshape=reshape, return_class_token=cls, return_extra_tokens=extra, norm=norm
        )
        assert isinstance(got, tuple)
        assert len(got) == len(wanted)
        for entry, index in zip(got, wanted, strict=True):
            out = blocks[index]
            prefix = (model.cls_norm if untied else model.norm)(out) if norm else out
            patches = (model.norm(out) if norm else out)[:, 1 + STORAGE :]
            if reshape:
                patches = patches.reshape(2, *GRID, D).permute(0, 3, 1, 2)
            expected = [patches, *[prefix[:, 0]] * cls, *[prefix[:, 1 : 1 + STORAGE]] * extra]
            parts = entry if isinstance(entry, tuple) else (entry,)
            assert isinstance(entry, tuple) is (cls or extra)
            assert not reshape or parts[0].is_contiguous()
            for part, tensor in zip(parts, expected, strict=True):
                torch.testing.assert_close(part, tensor)


def test_the_last_layer_is_what_forward_gives() -> None:
    model = make()
    features = model.forward_features(images())
    ((patches, cls, storage),) = model.get_intermediate_layers(
        images(), return_class_token=True, return_extra_tokens=True
    )
    assert torch.equal(patches, features["x_norm_patchtokens"])
    assert torch.equal(cls, features["x_norm_clstoken"])
    assert torch.equal(storage, features["x_storage_tokens"])


@pytest.mark.parametrize("n", [0, 4, -1, [3], [-1], [0, 9], []], ids=str)
def test_layers_that_do_not_exist(n: int | Sequence[int]) -> None:
    with pytest.raises(ValueError, match=r"asks for blocks outside 0\.\.2; the model has 3"):
        make().get_intermediate_layers(images(), n=n)


# ---- RoPE's table -------------------------------------------------------------------------------


def tables_made(model: Any, call: Any) -> list[tuple[Tensor, Tensor]]:
    made: list[tuple[Tensor, Tensor]] = []
    handle = model.rope_embed.register_forward_hook(lambda module, given, out: made.append(out))
    call()
    handle.remove()
    return made


def test_evaluation_makes_one_table_for_each_input() -> None:
    model = make()
    assert len(tables_made(model, lambda: model(images()))) == 1
    assert len(tables_made(model, lambda: model.forward_features(crops()))) == 2
    assert len(tables_made(model, lambda: model.get_intermediate_layers(images(), n=3))) == 1


def test_training_draws_a_table_for_every_block_and_input() -> None:
    """docs/spec.md 0, fact 7."""
    model = make(pos_embed_rope_rescale_coords=2.0).train()
    torch.manual_seed(0)
    made = tables_made(model, lambda: model.forward_features(crops()))
    assert [sin.shape[0] for sin, _ in made] == [15, 6] * DEPTH
    assert len({float(sin[0, 0]) for sin, _ in made[::2]}) == DEPTH


def test_every_block_of_a_training_step_uses_its_own_table() -> None:
    model = make(pos_embed_rope_rescale_coords=2.0).train()
    used: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, given: used.append(given[1][0][0]))
    torch.manual_seed(0)
    made = tables_made(model, lambda: model(images()))
    assert all(torch.equal(a, b[0]) for a, b in zip(used, made, strict=True))


def test_rows_and_columns_are_not_swapped() -> None:
    """An image and its transpose meet other tables, unless the grid is square."""
    model = make()
    model.patch_embed.proj.weight.data.copy_(
        (model.patch_embed.proj.weight + model.patch_embed.proj.weight.transpose(2, 3)) / 2
    )  # a patch and its transpose look alike
    tall = model.forward_features(images().transpose(2, 3))["x_norm_patchtokens"]
    wide = model.forward_features(images())["x_norm_patchtokens"]
    turned = wide.reshape(2, *GRID, D).transpose(1, 2).flatten(1, 2)
    assert float((tall - turned).norm() / turned.norm()) > 0.01
    model.rope_embed = None  # without positions nothing tells them apart (S39: None is allowed)
    tall = model.forward_features(images().transpose(2, 3))["x_norm_patchtokens"]
    wide = model.forward_features(images())["x_norm_patchtokens"]
    torch.testing.assert_close(tall, wide.reshape(2, *GRID, D).transpose(1, 2).flatten(1, 2))
    model.init_weights()


def test_rope_dtype_reaches_the_table() -> None:
    for name, dtype in {"fp64": torch.float64, "fp16": torch.float16, "bf16": torch.bfloat16}.items():
        model = DinoVisionTransformer(embed_dim=D, depth=1, num_heads=2, pos_embed_rope_dtype=name)
        assert model.rope_embed(H=2, W=3)[0].dtype == dtype
        assert model(images()).dtype == torch.float32


# ---- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [(1, 0), (0, 15), (15, 7)])
def test_sizes_are_floored_to_the_patch_grid(extra: tuple[int, int]) -> None:
    model = make()
    x = pixels(["chelsea"], HEIGHT + extra[0], WIDTH + extra[1])
    ragged, whole = model.forward_features(x), model.forward_features(x[:, :, :HEIGHT, :WIDTH])
    assert torch.equal(ragged["x_norm_patchtokens"], whole["x_norm_patchtokens"])
    (patches,) = model.get_intermediate_layers(x, reshape=True)
    assert patches.shape == (1, D, *GRID)


@pytest.mark.parametrize("size", [(16, 16), (16, 160), (224, 112)])
def test_any_size_runs_whatever_img_size_says(size: tuple[int, int]) -> None:
    features = make(img_size=224).forward_features(pixels(["china"], *size))
    assert features["x_norm_patchtokens"].shape == (1, size[0] * size[1] // 256, D)
    assert bool(features["x_prenorm"].isfinite().all())


def test_other_channels_and_patch_sizes() -> None:
    x = torch.randn(1, 5, 24, 40, generator=torch.Generator().manual_seed(0))
    assert make(in_chans=5, patch_size=8).forward_features(x)["x_norm_patchtokens"].shape == (1, 15, D)


def test_samples_of_a_batch_do_not_meet() -> None:
    model = make()
    torch.testing.assert_close(model(images())[1:], model(images()[1:]))


# ---- training and precision ---------------------------------------------------------------------


def test_training_with_drop_path_and_crops_has_gradients_everywhere() -> None:
    model = make(drop_path_rate=0.4, untie_global_and_local_cls_norm=True).train()
    torch.manual_seed(0)
    masks = [torch.arange(PATCHES).expand(2, -1) % 3 == 0, None]
    features = model(crops(), masks, is_training=True)
    sum(
        entry[name].square().mean()
        for entry in features
        for name in ("x_norm_clstoken", "x_storage_tokens", "x_norm_patchtokens")
    ).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert without == []


def test_bf16_autocast_is_near_fp32() -> None:
    """5.1e-3 relative measured: eight bits of mantissa."""
    model = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(images()).float()
    high = model(images())
    assert 1e-4 < float((low - high).norm() / high.norm()) < 3e-2
