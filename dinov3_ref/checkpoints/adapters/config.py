"""adapter_config.json of a PEFT adapter: what decides the merged weights, and what cannot be merged.

Source: PEFT's documentation of LoraConfig, https://huggingface.co/docs/peft/package_reference/lora;
arXiv:2106.09685 (LoRA), arXiv:2312.03732 (rank-stabilised scaling), arXiv:2402.09353 (DoRA).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinov3_ref.errors import CheckpointError
from dinov3_ref.json_file import read_json

FILE_NAME = "adapter_config.json"
# Initialisations that leave the base weights alone; others move a part of them into the adapter.
INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
# Options of LoraConfig that change neither the merged weights nor which layers have them.
HARMLESS = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying"),
        *("eva_config", "fan_in_fan_out", "inference_mode", "loftq_config", "lora_dropout", "lora_ga_config"),
        *("megatron_core", "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config"),
        *("task_type", "init_lora_weights", "lora_bias"),
    )
)


@dataclass(frozen=True)
class AdapterConfig:
    """The options of a LoRA adapter that decide the merged weights.

    Layers are named by patterns on module names, as the adapted model had them.
    """

    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    alpha_pattern: dict[str, Any] = field(default_factory=dict)
    rank_pattern: dict[str, Any] = field(default_factory=dict)
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    r: int = 8
    base: str = ""  # name of the base model, where the file tells it

    def scaling(self, module: str, rank: int) -> float:
        """alpha / rank, or alpha / sqrt(rank), of the module."""
        alpha = float(_by_pattern(self.alpha_pattern, module, self.lora_alpha))
        return alpha / rank**0.5 if self.use_rslora else alpha / rank

    def rank(self, module: str) -> int:
        """The rank that the module should have."""
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def targets(self, module: str) -> bool:
        """Whether a module with this name gets an adapter."""
        if self.exclude_modules and _names(self.exclude_modules, module):
            return False
        if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.modules_to_save or ()):
            return False
        if not self.target_modules or not _names(self.target_modules, module):
            return False
        if isinstance(self.target_modules, str) or self.layers_to_transform in (None, []):
            return True
        return self._index(module) in _as_list(self.layers_to_transform)

    def _index(self, module: str) -> int | None:
        """Number of the layer that a module is in."""
        patterns = [rf"(?:^|.*?\.){name}" for name in _as_list(self.layers_pattern or [])]
        found = (re.match(rf"{pattern}\.(\d+)\.", module) for pattern in patterns or [r".*?\.[^.]*"])
        return next((int(match[1]) for match in found if match), None)


def read_config(folder: Path) -> AdapterConfig:
    """The configuration of the adapter in `folder`.

    Raises CheckpointError for a missing or broken file, and by name for what cannot be merged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {FILE_NAME}; wanted what PEFT's save_pretrained wrote")
    document = read_json(path, "config")
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds a {type(document).__name__}; wanted a JSON object")
    _refuse(document, path)
    own = {name: document[name] for name in _KINDS if document.get(name) is not None}
    for name, value in own.items():
        kinds = _KINDS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise CheckpointError(
                f"{path} says {name} {value!r}; wanted {' or '.join(kind.__name__ for kind in kinds)}"
            )
    config = AdapterConfig(**own, base=str(document.get("base_model_name_or_path") or ""))
    _check_patterns(config, path)
    return config


_KINDS: dict[str, tuple[type, ...]] = {
    "lora_alpha": (int, float),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "alpha_pattern": (dict,),
    "rank_pattern": (dict,),
    "target_modules": (str, list),
    "exclude_modules": (str, list),
    "layers_to_transform": (int, list),
    "layers_pattern": (str, list),
    "modules_to_save": (list,),
    "r": (int,),
}


def _refuse(document: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError for another method than LoRA, or a variant of it that is not merged here."""
    kind = document.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{path} describes an adapter of type {kind}; wanted LORA (with or without DoRA); merge others "
            "with PEFT's merge_and_unload() and save the model"
        )
    start = document.get("init_lora_weights")
    if start not in INITIALISATIONS:
        raise CheckpointError(
            f"{path} says init_lora_weights {start!r}, which also changed the base weights; convert it with "
            "PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    for name, value in document.items():
        if value and name not in HARMLESS and name not in _KINDS:
            raise CheckpointError(
                f"{path} says {name} {value!r}, which cannot be merged here; merge it with PEFT's "
                "merge_and_unload() and save the model"
            )


def _check_patterns(config: AdapterConfig, path: Path) -> None:
    """Raise CheckpointError for a pattern that is no regular expression, or a value that is not a number."""
    listed = (config.exclude_modules, config.target_modules)
    patterns = [
        *(names for names in listed if isinstance(names, str)),
        *config.alpha_pattern,
        *config.rank_pattern,
        *_as_list(config.layers_pattern or []),
        *(config.modules_to_save or ()),
    ]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise CheckpointError(f"{path}: {pattern!r} is no regular expression: {error}") from error
    for value in (*config.alpha_pattern.values(), *config.rank_pattern.values()):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise CheckpointError(f"{path}: a pattern has the value {value!r}; wanted a number")


def _names(targets: str | Collection[str], module: str) -> bool:
    """Whether a regular expression matches the whole name, or a list has its end."""
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in targets)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: float) -> Any:
    """The value of the first pattern that matches the end of a module's name."""
    return next((patterns[key] for key in patterns if re.match(rf"(.*\.)?({key})$", module)), default)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
