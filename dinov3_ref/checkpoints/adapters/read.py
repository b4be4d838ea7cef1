"""Read the folder of a PEFT adapter: its configuration, and its tensors by module.

base_model.model.MODULE.lora_A.weight                low-rank matrices
base_model.model.MODULE.lora_B.weight, .bias
base_model.model.MODULE.lora_magnitude_vector        of DoRA
base_model.model.MODULE.base_layer.bias              a trained bias of an adapted layer
base_model.model.NAME                                any other trained tensor (modules_to_save, biases)
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dinov3_ref.checkpoints.adapters.config import FILE_NAME, AdapterConfig, read_config
from dinov3_ref.checkpoints.adapters.lora import LoraLayer
from dinov3_ref.checkpoints.files import read_tensors, sha256_of
from dinov3_ref.checkpoints.tensor_shapes import check_values
from dinov3_ref.errors import CheckpointError, KeyMismatch

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
_LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(?:\.default)?(?:\.(?P<end>weight|bias))?"
)
_INSERTED = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter. Names are those of the adapted model, without PEFT's own parts."""

    config: AdapterConfig
    layers: dict[str, LoraLayer]  # by module name
    trained: dict[str, Tensor]  # tensors that replace those of the base, by name
    source: str  # name of the folder
    sha256: str  # of the sorted "name sha256" lines of its two files


def read_adapter(folder: Path) -> Adapter:
    """Read and check the adapter in `folder`. Raises CheckpointError or KeyMismatch."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; wanted the one that PEFT's save_pretrained wrote")
    config = read_config(folder)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(
            f"{folder} holds neither {' nor '.join(WEIGHTS)}; wanted an adapter with its weights"
        )
    tensors = {key.removeprefix(PREFIX): value for key, value in read_tensors(weights).items()}
    check_values(tensors, str(weights))
    parts: dict[str, dict[str, Tensor]] = {}
    trained: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if match := _LORA.fullmatch(key):
            part = match["part"] + ("_bias" if match["end"] == "bias" else "")
            parts.setdefault(match["module"], {})[part] = tensor
        elif "lora_" in key or ".original_module." in key:
            raise KeyMismatch(
                f"{weights} holds {key}, which is of no linear layer or convolution; merge it with "
                "PEFT's merge_and_unload() and save the model"
            )
        else:
            trained[_INSERTED.sub("", key)] = tensor
    if not parts and not trained:
        raise KeyMismatch(f"{weights} holds no tensors; wanted those of a LoRA adapter")
    lines = sorted(f"{path.name} {sha256_of(path)}\n" for path in (weights, folder / FILE_NAME))
    return Adapter(
        config,
        {module: _layer(module, found, config, str(weights)) for module, found in parts.items()},
        trained,
        folder.resolve().name,
        hashlib.sha256("".join(lines).encode()).hexdigest(),
    )


def _layer(module: str, parts: dict[str, Tensor], config: AdapterConfig, name: str) -> LoraLayer:
    """One layer of its tensors. Raises KeyMismatch for one that is missing, unexpected or of another rank."""
    wanted = {"A", "B"} | ({"magnitude_vector"} if config.use_dora else set())
    if missing := sorted(wanted - parts.keys()):
        raise KeyMismatch(f"{name}: {module}.lora_{missing[0]} is missing; fetch or save the adapter again")
    if extra := sorted(parts.keys() - wanted - {"B_bias"}):
        raise KeyMismatch(
            f"{name}: {module}.lora_{extra[0]} is not expected: {FILE_NAME} says use_dora "
            f"{str(config.use_dora).lower()}; wanted the two files of one adapter"
        )
    rank = parts["A"].shape[0]
    if rank != config.rank(module):
        raise KeyMismatch(
            f"{name}: {module} has rank {rank}, {FILE_NAME} says {config.rank(module)}; wanted the "
            "two files of one adapter"
        )
    return LoraLayer(
        parts["A"],
        parts["B"],
        config.scaling(module, rank),
        parts.get("magnitude_vector"),
        parts.get("B_bias"),
    )
