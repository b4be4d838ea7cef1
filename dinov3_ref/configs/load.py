"""Read a configuration: defaults, then a recipe or file, then `key=value` overrides (docs/spec.md 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinov3_ref.configs.checks import check_config
from dinov3_ref.configs.default import get_default_config
from dinov3_ref.configs.official_keys import drop_official_keys
from dinov3_ref.errors import ConfigError, reason_of

RECIPES = files("dinov3_ref.configs") / "recipes"
FOLDER = "students"  # below train.output_dir, one folder per student
BASE = "base"  # key of a file: the recipe that it extends


def recipe_names() -> list[str]:
    """Names of the recipes in `configs/recipes`."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml")
    )


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Any:
    """Read and check the configuration of a recipe or a YAML file, with `overrides` such as `optim.lr=1e-4`.

    A file with `base: RECIPE` extends that recipe. Official files can be read too (`official_keys.py`).
    Raises `ConfigError`, in one line, for a missing file, bad YAML, unknown keys, wrong types and
    contradictions.
    """
    config = get_default_config()
    if source is not None:
        config = _merge(config, _read(source), str(source))
    if overrides:
        config = _merge(config, _from_overrides(overrides), "the command line")
    check_config(config)
    return config


def student_configs(config: Any) -> dict[str, Any]:
    """The checked configuration of each student of `multidistillation`, by name. Raises `ConfigError`."""
    configs = {}
    for entry in config.multidistillation.students:
        where = f"multidistillation.students: {entry.name}"
        changes = {
            "student": entry.student,
            "optim": entry.optim,
            "train": {"output_dir": f"{config.train.output_dir}/{FOLDER}/{entry.name}"},
            "multidistillation": {"enabled": False, "students": []},
        }
        try:
            own = OmegaConf.merge(config, OmegaConf.create(changes))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{where} at {error.full_key}: {reason_of(error)}") from error
        try:
            check_config(own)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        configs[entry.name] = own
    return configs


def _read(source: str | Path) -> DictConfig:
    path = Path(source)
    recipe = RECIPES / f"{source}.yaml"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif path.suffix not in (".yaml", ".yml") and recipe.is_file():
        text = recipe.read_text(encoding="utf-8")
    else:
        raise ConfigError(f"{source} is neither a file nor a recipe; recipes: {', '.join(recipe_names())}")
    try:
        given = OmegaConf.create(text)
    except Exception as error:  # the YAML reader raises many types
        raise ConfigError(f"{source} is not YAML ({reason_of(error)})") from error
    if not isinstance(given, DictConfig):
        raise ConfigError(f"{source} holds a list; wanted groups such as student: and optim:")
    base = given.pop(BASE, None)
    if base is None:
        return given
    if base not in recipe_names():
        raise ConfigError(f"{source}: {BASE} is {base!r}; wanted a recipe: {', '.join(recipe_names())}")
    merged = OmegaConf.merge(_read(base), given)
    assert isinstance(merged, DictConfig)
    return merged


def _from_overrides(overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r} on the command line; wanted key=value, such as optim.lr=1e-4")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:  # the YAML reader raises many types
        raise ConfigError(f"the command line's values cannot be read ({reason_of(error)})") from error


def _merge(config: DictConfig, given: DictConfig, where: str) -> Any:
    drop_official_keys(given)
    try:
        merged = OmegaConf.merge(config, given)
        for key in OmegaConf.missing_keys(given):  # "???": a value must be given, despite the default
            OmegaConf.update(merged, key, "???")
        return merged
    except OmegaConfBaseException as error:
        key = f" at {error.full_key}" if error.full_key else ""
        raise ConfigError(f"{where}{key}: {reason_of(error)}") from error
