"""Write docs/development/seed.md: every item of the original document, its status and its test.

    python -m tests.compatibility.make_table

Items and differences are the literal table below; tests are found by their names, `test_S01_…`.
"""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parent.parent / "docs" / "development" / "seed.md"

# id -> (item of the document, difference; empty: works as written)
ITEMS: dict[str, tuple[str, str]] = {
    "S01": ("`DinoVisionTransformer(...)` and its defaults", "keyword arguments only, and more of them"),
    "S02": ("attributes of the model", "`storage_tokens` only if the model has some; `mask_token` is [1, D]"),
    "S03": ('`norm_layer="layernorm"`', "released models use `layernormbf16`, eps 1e-5"),
    "S04": ("`PatchEmbed.forward`, `flatten_embedding`", ""),
    "S05": ("`RopePositionEmbedding.forward(*, H, W)`", "tables of width head_dim"),
    "S06": ("coordinates in [-1, 1]", "of patch centres: ±(1 - 1/H)"),
    "S07": ("`rope_apply`", ""),
    "S08": ("`rope_rotate_half`", ""),
    "S09": ("`SelfAttention.forward(x, attn_bias, rope)`", "`attn_bias` must be None"),
    "S10": ("`compute_attention`", ""),
    "S11": ("`apply_rope(q, k, rope)`", "CLS and storage tokens are not rotated"),
    "S12": ("structure of a block, LayerScale optional", ""),
    "S13": ("a block takes a tensor or a list", "a tensor gives a tensor, a list a list"),
    "S14": ("DropPath", "drops a subset of the batch; the same rate in every block"),
    "S15": ("`DINOHead(...)`", ""),
    "S16": ("`DINOHead.forward`, its two flags", ""),
    "S17": ("diagram of the head's MLP", "the last layer has no bias"),
    "S18": ("`prepare_tokens_with_masks`", ""),
    "S19": ("`forward_features` gives a list of dicts", "for a list of images; a tensor gives one dict"),
    "S20": ("keys of the features", "also `x_extra_tokens` if a subclass adds tokens"),
    "S21": ("`get_intermediate_layers`, all arguments", "entries are (patches, cls, storage)"),
    "S22": ("`forward(is_training=...)`", "lists work in both modes"),
    "S23": ("`vit_small`", "21.6 M parameters"),
    "S24": ("`vit_base`", "85.7 M parameters"),
    "S25": ("`vit_large`", "303.1 M parameters"),
    "S26": ("`vit_giant2`", "1134 M parameters"),
    "S27": ("four sizes", "and six more: S+, L+, so400m, H, H+, 7B"),
    "S28": ("`build_model_for_eval`", "also on a CPU; options of the checkpoint; None: random weights"),
    "S29": ("`get_default_config`, `config.student.arch`", ""),
    "S30": ("Resize, CenterCrop, Normalize", "bilinear as written; published evaluations are bicubic"),
    "S31": ("`model(img)` and `is_training=True`", ""),
    "S32": ("the last four layers", ""),
    "S33": ("`DINOClassifier`", ""),
    "S34": ("`DINOFeatureExtractor`, layers 3, 5, 7, 11", ""),
    "S35": ("`CustomAttention(SelfAttention)`", "`attn_class=` uses it in every block"),
    "S36": ("`Mlp`, `SwiGLUFFN`", ""),
    "S37": ("`ffn_layer` by name", ""),
    "S38": ("`ffn_layer_dict[...] = CustomFFN`", "only `forward` is needed, in training too"),
    "S39": ("`AbsolutePositionEmbedding` in place of RoPE", "as `rope_embed`; one image size, so no export"),
    "S40": ("extra token types", "separate from patches, exported as `extra`"),
    "S41": ("`DINOLoss`, `KoLeoLoss`, `iBOTPatchLoss`", ""),
    "S42": ("`DINOLoss(out_dim)(student, teacher)`", "[B, K] or [crops, B, K]"),
    "S43": ("`KoLeoLoss()(features)`", ""),
    "S44": ("`iBOTPatchLoss(out_dim=...)`", "`patch_out_dim` is an alias"),
    "S45": ("`ibot_loss(student, teacher)`", "without masks, the mean over all patches"),
    "S46": ("losses weighted 1.0, 0.1, 1.0", ""),
    "S47": ("`SSLMetaArch(cfg)`", "also on a CPU and without a process group"),
    "S48": ("`build_model_from_cfg(cfg)`", ""),
    "S49": ("`forward_backward(data, *, teacher_temp, iteration)`", "three entries of the batch are enough"),
    "S50": ("`get_teacher_output`, `get_student_output`, `compute_losses`", "masks are an argument"),
    "S51": ("`update_ema(m)`", ""),
    "S52": ("`DataAugmentationDINO(...)`", ""),
    "S53": ("masks of the augmented views", "drawn when a batch is collated"),
    "S54": ("autocast and GradScaler", "use `forward_loss`: `forward_backward` also runs the backward pass"),
    "S55": ("gradient accumulation", "use `forward_loss`, as S54"),
    "S56": ("`get_params_groups_with_decay_fsdp`", "`lr=` applies the rates without a schedule"),
    "S57": ("attention maps", "use `attention_maps`: a hook sees outputs, not weights"),
    "S58": ("image sizes are multiples of the patch", "a remainder is cut off, not an error"),
    "S59": ("freezing a backbone or its first blocks", ""),
    "S60": ("`DinoViTWithCheckpoint`", "takes images; the document's sketch takes tokens"),
    "S61": ("smaller batch, smaller model", ""),
    "S62": ("saving and loading a training state", ""),
    "S63": ("`from dinov3.models import vit_base`", ""),
    "S64": ("`torch.load(...)['model']`", "released files are flat; both can be read"),
    "S65": ("`load_state_dict(..., strict=False)`", "the model adopts the options of the file, and warns"),
    "S66": ("CIFAR10 training script", ""),
    "S67": ("strict load of `['model']`", "as S65"),
    "S68": ("retrieval", ""),
}

HEAD = """\
# The original document, item by item

This project began with a document of code snippets for DINOv3. This page lists every item, with `dinov3`
read as `dinov3_ref`: each works as written or with the difference named here, and has one test in
`tests/compatibility` that runs its snippet.

Written by `python -m tests.compatibility.make_table`; do not edit.

| item | what | status | test |
|---|---|---|---|
"""


def find_tests() -> dict[str, list[str]]:
    """Item -> `file::function` of the tests named after it."""
    found: dict[str, list[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_S"):
                found.setdefault(node.name[5:8], []).append(f"{path.name}::{node.name}")
    return found


def make_table() -> str:
    """The text of the page. Raises KeyError for an item without a test."""
    tests = find_tests()
    rows = (
        f"| {item} | {what} | {f'works: {note}' if note else 'works'} | `{tests[item][0]}` |\n"
        for item, (what, note) in ITEMS.items()
    )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(make_table(), encoding="utf-8")
