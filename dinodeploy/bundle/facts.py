"""The facts of a manifest, one dataclass each (`manifest.py` reads and writes them)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class AdapterFacts:
    """A PEFT adapter that was merged into the weights."""

    source: str  # name of its folder
    sha256: str  # of its weights and its configuration


@dataclass(frozen=True)
class ModelFacts:
    """The model and the origin of its weights."""

    arch: str
    embed_dim: int
    depth: int  # what `layers` counts: blocks of a ViT, stages of a ConvNeXt
    num_heads: int  # 0 where there is no attention
    patch_size: int  # pixels from one patch token to the next: a ConvNeXt's stride
    storage_tokens: int
    weights: Literal["file", "hub", "random", "memory"]  # random: for trials only
    source: str  # file name or hub id
    sha256: str  # of the source checkpoint
    layout: str
    dataset: str | None
    rope_periods: Literal["bf16", "fp32"] | None  # None: no RoPE
    weights_key: str | None = None  # which of several models in the file
    adapter: AdapterFacts | None = None


@dataclass(frozen=True)
class OutputFacts:
    """One output of the graph; free dimensions by name."""

    name: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class HeadFacts:
    """What comes after the backbone, in the same graph: a head, or the rest of a whole model."""

    task: Literal["classify", "segment", "depth", "pyramid", "custom", "detect", "panoptic", "regress"]
    kind: str  # linear_classifier, dpt_depth, eomt …, or the class name of a user's head or module
    inputs: tuple[str, ...]  # backbone outputs that it reads; of a whole model empty
    outputs: tuple[str, ...]
    classes: tuple[str, ...]  # names by index along an output's second dimension; may be empty
    source: str  # file name
    sha256: str  # of that file
    licence: str
    settings: dict[str, Any] = field(default_factory=dict)  # JSON: what post-processing needs to know

    @property
    def least_side(self) -> int:
        """Pixels that both sides of an input must have."""
        return int(self.settings.get("least_side", 1))

    @property
    def scores_classes(self) -> bool:
        """Whether the largest of its logits along their second dimension is the class."""
        return self.task in ("classify", "segment") and not self.multi_label

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes: each logit is compared with a threshold of its own."""
        return bool(self.settings.get("multi_label", False))


@dataclass(frozen=True)
class GraphFacts:
    """How the graph was made."""

    recipe: str
    dialect: str
    opset: int
    folds: tuple[str, ...]
    layers: tuple[int, ...]  # blocks or stages whose patch maps are outputs too
    overrides: tuple[str, ...] = ()  # PATTERN=TYPE, as given
    given_back: tuple[str, ...] = ()  # groups of layers that an 8-bit recipe runs in fp16 (fallback layers)
    calibration_pictures: int = 0
    attention: bool = False  # whether the last block's attention of CLS is an output
    fixed: tuple[str, ...] = ()  # sizes that the graph takes only as traced: of batch, height, width
    head_precision: str = "fp32"  # type of the layers outside the backbone
    backbones: tuple[str, ...] = ()  # of a whole model: module paths of the backbones in it


@dataclass(frozen=True)
class ProfileFacts:
    """One shape profile of an engine: smallest, usual and largest input, each (B, H, W)."""

    min: tuple[int, int, int]
    opt: tuple[int, int, int]
    max: tuple[int, int, int]


@dataclass(frozen=True)
class BuildFacts:
    """The runtime that built a plan and the machines it is for."""

    runtime: str  # "tensorrt 10.3.0" or "tensorrt_rtx 1.7.1.116": module name and version
    source: str  # the graph it was built from, a file of the bundle (model.onnx)
    source_sha256: str  # `engine_sha256` of it
    profiles: tuple[ProfileFacts, ...]
    compute_capabilities: tuple[str, ...]  # "8.9"; empty: RTX's default set, not noted
    driver: str | None  # of the build machine; None without a GPU
    version_compatible: bool
    hardware_compatible: str  # "none" | "ampere_plus" | "same_compute_capability"
    refittable: bool
    stripped: bool  # weights left out; refit needs source
    weight_streaming: bool
    optimization_level: int | None


@dataclass(frozen=True)
class EngineFacts:
    """One file that a backend can run."""

    backend: str
    files: tuple[str, ...]  # the engine itself first, then the files it reads
    build: BuildFacts | None = None  # TensorRT plans only
    outputs: tuple[str, ...] = ()  # empty: all outputs of the manifest
    same_numbers_as: str | None = None  # the full engine, where this one computes only some of its outputs
    instructions: tuple[str, ...] = ()  # sets of CPU instructions without which it is wrong (`vnni`)


@dataclass(frozen=True)
class FileFacts:
    """Hash and size of a file of a bundle or store."""

    sha256: str
    bytes: int
