"""Sizes of a dino.txt model, read from tensor shapes (docs/spec.md 5.8).

Symbols: D width of the vision head, F its FFN width, W width of the text tower, G its FFN width, V
vocabulary, N context length, E embedding size. E = 2 D: CLS and the mean patch side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dinov3_ref.checkpoints.tensor_shapes import Shape
from dinov3_ref.errors import ConfigError, KeyMismatch
from dinov3_ref.layers.ffn_layers import swiglu_width

HEAD_DIM = 64  # in both towers: heads = width / 64
VISION_HEAD, TEXT_MODEL, LOGIT_SCALE = "visual_model.head.", "text_model.", "logit_scale"
TEXT = f"{TEXT_MODEL}backbone."
PROJECTION = f"{TEXT_MODEL}head.linear_projection.weight"


@dataclass(frozen=True)
class DinoTxtConfig:
    """Sizes of the vision head and the text tower. Defaults: the released model, on a ViT-L.

    Raises ConfigError when created with sizes that do not fit together.
    """

    vision_dim: int = 1024
    vision_depth: int = 2
    vision_ffn: int = 2752
    vision_layerscale: bool = True
    text_dim: int = 1280
    text_depth: int = 24
    text_ffn: int = 5120
    text_layerscale: bool = False
    vocab_size: int = 49_408
    context_length: int = 77
    embed_dim: int = 2048

    def __post_init__(self) -> None:
        for name in ("vision_dim", "text_dim"):
            width = getattr(self, name)
            if width <= 0 or width % HEAD_DIM:
                raise ConfigError(f"{name} is {width}; wanted a multiple of {HEAD_DIM}, the size of a head")
        if self.embed_dim != 2 * self.vision_dim:
            raise ConfigError(
                f"text embeddings have {self.embed_dim} numbers, image embeddings {2 * self.vision_dim} (CLS "
                f"and mean patch of {self.vision_dim}); wanted the same: these are parts of two models"
            )
        if self.context_length < 2:
            raise ConfigError(f"context_length is {self.context_length}; wanted 2 or more: start and end")

    @property
    def vision_heads(self) -> int:
        return self.vision_dim // HEAD_DIM

    @property
    def text_heads(self) -> int:
        return self.text_dim // HEAD_DIM


def released_config(width: int) -> DinoTxtConfig:
    """The released sizes, with a vision head for a backbone of `width` channels."""
    return DinoTxtConfig(vision_dim=width, vision_ffn=swiglu_width(4 * width, 64), embed_dim=2 * width)


def infer_config(shapes: Mapping[str, Shape], name: str) -> DinoTxtConfig:
    """The sizes of a head file. Reads a few shapes; `expected_shapes` has all of them.

    Raises KeyMismatch if one of the few is missing or impossible; `name` is the file's.
    """

    def shape(key: str, rank: int) -> Shape:
        found = shapes.get(key)
        if found is None or len(found) != rank or 0 in found:
            got = "it is missing" if found is None else f"found {list(found)}"
            raise KeyMismatch(f"{name}: {key} should be a tensor of {rank} axes; {got}")
        return found

    context_length, text_dim = shape(f"{TEXT}positional_embedding", 2)
    try:
        return DinoTxtConfig(
            vision_dim=shape(f"{VISION_HEAD}ln_final.weight", 1)[0],
            vision_depth=_depth(shapes, VISION_HEAD, name),
            vision_ffn=shape(f"{VISION_HEAD}blocks.0.mlp.w1.weight", 2)[0],
            vision_layerscale=f"{VISION_HEAD}blocks.0.ls1.gamma" in shapes,
            text_dim=text_dim,
            text_depth=_depth(shapes, TEXT, name),
            text_ffn=shape(f"{TEXT}blocks.0.feed_forward.fc1.weight", 2)[0],
            text_layerscale=f"{TEXT}blocks.0.ls1.gamma" in shapes,
            vocab_size=shape(f"{TEXT}token_embedding.weight", 2)[0],
            context_length=context_length,
            embed_dim=shape(PROJECTION, 2)[0],
        )
    except ConfigError as error:
        raise KeyMismatch(f"{name}: {error}") from error


def _depth(shapes: Mapping[str, Shape], prefix: str, name: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"blocks\.(\d{1,18})\.")
    depth = 1 + max((int(m[1]) for key in shapes if (m := pattern.match(key))), default=-1)
    if not 1 <= depth <= len(shapes):
        raise KeyMismatch(
            f"{name} has {prefix}blocks up to {depth - 1} in {len(shapes)} tensors; wanted 0 onwards, no gaps"
        )
    return depth


def expected_shapes(config: DinoTxtConfig) -> dict[str, Shape]:
    """Official key -> shape of every tensor of a head file."""
    return dict(_shapes(config))


def _shapes(config: DinoTxtConfig) -> Iterator[tuple[str, Shape]]:
    D, F, W, G = config.vision_dim, config.vision_ffn, config.text_dim, config.text_ffn
    yield LOGIT_SCALE, (1,)
    yield from _norm(f"{VISION_HEAD}ln_final", D)
    for index in range(config.vision_depth):
        block = f"{VISION_HEAD}blocks.{index}."
        yield from _norm(f"{block}norm1", D)
        yield f"{block}attn.qkv.weight", (3 * D, D)
        yield from _linear(f"{block}attn.proj", D, D)
        yield from _norm(f"{block}norm2", D)
        for gate in ("w1", "w2"):
            yield from _linear(f"{block}mlp.{gate}", F, D)
        yield from _linear(f"{block}mlp.w3", D, F)
        yield from _gammas(block, D, config.vision_layerscale)
    yield f"{TEXT}positional_embedding", (config.context_length, W)
    yield f"{TEXT}token_embedding.weight", (config.vocab_size, W)
    for index in range(config.text_depth):
        block = f"{TEXT}blocks.{index}."
        yield from _norm(f"{block}attention_norm", W)
        yield f"{block}attention.qkv.weight", (3 * W, W)
        yield from _linear(f"{block}attention.proj", W, W)
        yield from _norm(f"{block}ffn_norm", W)
        yield from _linear(f"{block}feed_forward.fc1", G, W)
        yield from _linear(f"{block}feed_forward.fc2", W, G)
        yield from _gammas(block, W, config.text_layerscale)
    yield from _norm(f"{TEXT}ln_final", W)
    yield PROJECTION, (config.embed_dim, W)


def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _gammas(block: str, width: int, present: bool) -> Iterator[tuple[str, Shape]]:
    if present:
        yield f"{block}ls1.gamma", (width,)
        yield f"{block}ls2.gamma", (width,)
