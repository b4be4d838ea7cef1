"""What config.json of a DEIMv2 model says, checked: shapes, and the details that no tensor shows.

Defaults are those of transformers' `Deimv2Config`. Options under which transformers' own model fails, and
those without a DINOv3 backbone, are refused in one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dinov3_ref.errors import CheckpointError, ForeignCheckpoint
from dinov3_ref.tasks.deimv2.layers import ACTIVATIONS

MODEL_TYPE = "deimv2"
SCALES = 3  # maps that the spatial tuning adapter makes
PATCH = 16  # pixels; its strides fit no other
DEFAULT_LABELS = 2  # of a transformers configuration without id2label

# key of config.json -> (its default, the values that are supported, why no other)
REFUSED: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "encoder_type": ("hybrid", ("hybrid",), "the lite encoder belongs to HGNetV2 backbones"),
    "encoder_fuse_op": ("sum", ("sum",), "its blocks do not take joined maps"),
    "learn_initial_query": (False, (False,), "transformers cannot run such a model either"),
    "decoder_method": ("default", ("default", "discrete"), "no other way to sample is known"),
}


@dataclass(frozen=True)
class DeimV2Config:
    """Architecture of a detector after its backbone."""

    classes: tuple[str, ...]
    blocks: tuple[int, ...]  # of the backbone, three, ascending
    norms: tuple[bool, ...]  # whether each of them is normed
    planes: int
    encoder_width: int
    encoder_layers: int
    encoder_ffn: int
    encoder_heads: int
    encoded_maps: tuple[int, ...]  # maps with self-attention
    encoder_positions: bool
    encoder_activation: str
    temperature: float
    norm_first: bool
    trailing_conv: bool
    csp_width: int
    csp_depth: int
    activation: str  # of convolutions
    batch_norm_eps: float
    layer_norm_eps: float
    width: int
    maps: int  # that the decoder samples
    decoder_inputs: tuple[int, ...]  # channels of its maps before projection
    queries: int
    points: tuple[int, ...]  # per map
    decoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_activation: str
    nearest_points: bool
    offset_scale: float
    gated: bool
    shared_boxes: bool
    bins: int
    up: float
    reg_scale: float
    quality_top: int
    quality_width: int
    quality_depth: int
    anchor_size: tuple[int, int] | None  # image size (h, w) that the anchors are fixed for

    @property
    def scales(self) -> int:
        """Maps of the encoder."""
        return SCALES


def is_dinov3(config: Mapping[str, Any]) -> bool:
    """Whether the backbone in this config.json is a DINOv3 ViT."""
    backbone = config.get("backbone_config")
    return isinstance(backbone, dict) and backbone.get("model_type") == "dinov3_vit"


def read_config(config: Mapping[str, Any], name: str) -> DeimV2Config:
    """From the parsed config.json of the file called `name`.

    Raises `ForeignCheckpoint` for another backbone, `CheckpointError` for an option that is not supported.
    """
    backbone = config.get("backbone_config") or {}
    if not is_dinov3(config):
        kind = backbone.get("model_type", "hgnet_v2") if isinstance(backbone, dict) else backbone
        raise ForeignCheckpoint(
            f"{name} is a DEIMv2 detector with a {kind} backbone; wanted one with DINOv3 (S, M, L, X)"
        )
    get, depth = _Reader(config, name), _Reader(backbone, name).count("num_hidden_layers", 12)
    for key, (default, supported, why) in REFUSED.items():
        if (value := config.get(key, default)) not in supported:
            raise CheckpointError(f"{name}: config.json says {key} {value!r}, which is not supported: {why}")
    blocks = _blocks(backbone, depth, name)
    normed = bool(backbone.get("apply_layernorm", True))
    width, layers, maps = (
        get.count("d_model", 256),
        get.count("decoder_layers", 6),
        get.count("num_feature_levels", 3),
    )
    if get.number("eval_idx", -1) not in (-1, layers - 1):
        raise CheckpointError(
            f"{name}: config.json says eval_idx {config['eval_idx']} of {layers} layers; wanted the last, as "
            "transformers' own model needs"
        )
    encoder_width = get.count("encoder_hidden_dim", 256)
    read = DeimV2Config(
        classes=_classes(config),
        blocks=blocks,
        norms=tuple(normed or block == depth - 1 for block in blocks),
        planes=get.count("spatial_tuning_adapter_inplanes", 16),
        encoder_width=encoder_width,
        encoder_layers=int(get.number("encoder_layers", 1)),
        encoder_ffn=get.count("encoder_ffn_dim", 1024),
        encoder_heads=get.count("encoder_attention_heads", 8),
        encoded_maps=get.counts("encode_proj_layers", (2,)),
        encoder_positions=config.get("eval_size") is None,
        encoder_activation=get.activation("encoder_activation_function", "gelu"),
        temperature=get.number("positional_encoding_temperature", 10000),
        norm_first=bool(config.get("normalize_before", False)),
        trailing_conv=bool(config.get("encoder_has_trailing_conv", True)),
        csp_width=round(get.number("hidden_expansion", 1.0) * encoder_width // 2),
        csp_depth=round(3 * get.number("depth_mult", 1.0)),
        activation=get.activation("activation_function", "silu"),
        batch_norm_eps=get.number("batch_norm_eps", 1e-5),
        layer_norm_eps=get.number("layer_norm_eps", 1e-5),
        width=width,
        maps=maps,
        decoder_inputs=get.counts("decoder_in_channels", (256, 256, 256)),
        queries=get.count("num_queries", 300),
        points=_points(config.get("decoder_n_points", 4), maps, name),
        decoder_ffn=get.count("decoder_ffn_dim", 1024),
        decoder_layers=layers,
        decoder_heads=get.count("decoder_attention_heads", 8),
        decoder_activation=get.activation("decoder_activation_function", "relu"),
        nearest_points=config.get("decoder_method") == "discrete",
        offset_scale=get.number("decoder_offset_scale", 0.5),
        gated=bool(config.get("use_gateway", True)),
        shared_boxes=bool(config.get("share_bbox_head", False)),
        bins=get.count("max_num_bins", 32),
        up=get.number("up", 0.5),
        reg_scale=get.number("reg_scale", 4.0),
        quality_top=get.count("top_prob_values", 4),
        quality_width=get.count("lqe_hidden_dim", 64),
        quality_depth=get.count("lqe_layers", 2),
        anchor_size=_anchor_size(config.get("anchor_image_size"), name),
    )
    for problem in _problems(read):
        raise CheckpointError(f"{name}: config.json says {problem}")
    return read


def _problems(read: DeimV2Config) -> Iterator[str]:
    """Values that do not belong together: what was found, and what was wanted."""
    if read.bins % 2:
        yield f"max_num_bins {read.bins}; wanted an even number of bins"
    if read.encoder_width % 4 or read.encoder_width % read.encoder_heads:
        yield (
            f"encoder_hidden_dim {read.encoder_width} and encoder_attention_heads {read.encoder_heads}; "
            "wanted a multiple of 4 and of the heads"
        )
    if read.width % read.decoder_heads:
        heads = read.decoder_heads
        yield f"d_model {read.width} and decoder_attention_heads {heads}; wanted a multiple of the heads"
    if not all(0 <= index < SCALES for index in read.encoded_maps):
        yield f"encode_proj_layers {list(read.encoded_maps)}; wanted numbers from 0 to {SCALES - 1}"
    if read.maps < SCALES or read.decoder_inputs != (read.encoder_width,) * SCALES:
        yield (
            f"num_feature_levels {read.maps} and decoder_in_channels {list(read.decoder_inputs)}; wanted "
            f"{SCALES} maps or more, and encoder_hidden_dim {SCALES} times"
        )


class _Reader:
    """Typed values of config.json. Raises `CheckpointError` for another type."""

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._config, self._name = config, name

    def _fail(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self._name}: config.json says {key} {self._config[key]!r}; wanted {wanted}")

    def number(self, key: str, default: float) -> float:
        value = self._config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._fail(key, "a number")
        return value

    def count(self, key: str, default: int) -> int:
        value = self._config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._fail(key, "a positive integer")
        return value

    def counts(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self._config.get(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(one, int) for one in value):
            raise self._fail(key, "a list of integers")
        return tuple(value)

    def activation(self, key: str, default: str) -> str:
        value = self._config.get(key, default)
        if value not in ACTIVATIONS:
            raise self._fail(key, f"one of {', '.join(ACTIVATIONS)}")
        return str(value)


def _blocks(backbone: Mapping[str, Any], depth: int, name: str) -> tuple[int, ...]:
    """Indices of the blocks whose maps the detector reads; in config.json 0 is the patch embedding."""
    stages = backbone.get("out_indices") or [depth]
    if not isinstance(stages, list) or len(stages) != SCALES or backbone.get("patch_size", PATCH) != PATCH:
        raise CheckpointError(
            f"{name}: the backbone in config.json has out_indices {stages} and patch_size "
            f"{backbone.get('patch_size', PATCH)}; wanted {SCALES} blocks and {PATCH} pixels"
        )
    blocks = tuple(int(stage) - 1 for stage in stages)
    if sorted(set(blocks)) != list(blocks) or not 0 <= blocks[0] <= blocks[-1] < depth:
        raise CheckpointError(
            f"{name}: the backbone in config.json has out_indices {stages}; wanted ascending numbers from 1 "
            f"to {depth}"
        )
    return blocks


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("id2label")
    if not isinstance(named, dict) or not named:
        count = config.get("num_labels", DEFAULT_LABELS)
        return tuple(f"LABEL_{i}" for i in range(count))
    return tuple(str(named[key]) for key in sorted(named, key=lambda key: (len(key), key)))


def _points(value: Any, maps: int, name: str) -> tuple[int, ...]:
    points = (value,) * maps if isinstance(value, int) else value
    if (
        not isinstance(points, list | tuple)
        or len(points) != maps
        or not all(isinstance(n, int) for n in points)
    ):
        raise CheckpointError(
            f"{name}: config.json says decoder_n_points {value!r}; wanted a number, or {maps} of them"
        )
    return tuple(points)


def _anchor_size(value: Any, name: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(n, int) and n > 0 for n in value):
        raise CheckpointError(
            f"{name}: config.json says anchor_image_size {value!r}; wanted height and width"
        )
    return value[0], value[1]
