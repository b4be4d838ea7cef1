"""Read a configuration: defaults, then a recipe or file, then `key=value` overrides (docs/spec.md 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinov3_ref.configs.checks import OF_A_STUDENT, check_common, check_config, check_ready
from dinov3_ref.configs.default import get_default_config
from dinov3_ref.configs.official_keys import check_official_values, drop_official_keys
from dinov3_ref.errors import ConfigError, reason_of

RECIPES = files("dinov3_ref.configs") / "recipes"
FOLDER = "students"  # below train.output_dir, one folder per student
BASE = "base"  # key of a file: the recipe that it extends


def recipe_names() -> list[str]:
    """Names of the recipes in `configs/recipes`."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml")
    )


def load_config(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    note: Callable[[str], None] = lambda _: None,
) -> Any:
    """Read and check the configuration of a recipe or a YAML file, with `overrides` such as `optim.lr=1e-4`.

    A file with `base: RECIPE` extends that recipe. Official files can be read too (`official_keys.py`);
    `note` is called with one line that names their keys without effect.
    Raises `ConfigError`, in one line, for a missing file, bad YAML, unknown keys, wrong types and
    contradictions.
    """
    file = _read(source) if source is not None else OmegaConf.create({})
    words = _from_overrides(overrides)
    both = OmegaConf.merge(file, words)
    assert isinstance(both, DictConfig)
    check_official_values(both)
    if dropped := drop_official_keys(file):
        note(f"{source}: keys that the official code does not use change nothing: {', '.join(dropped)}")
    drop_official_keys(words)
    config = _merge(_merge(get_default_config(), file, str(source)), words, "the command line")
    if source is not None:
        _find_files(config, Path(source))
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
            "multidistillation": {"enabled": False, "global_batch_size": None, "students": []},
        }
        own = _with_file(config, entry.config_path, where) if entry.config_path else config
        try:
            own = OmegaConf.merge(own, OmegaConf.create(changes))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{where} at {error.full_key}: {reason_of(error)}") from error
        try:
            check_config(own)
            check_ready(own)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        configs[entry.name] = own
    check_common(configs)
    return configs


def _with_file(config: Any, path: str, where: str) -> Any:
    """The configuration of the run with a student's own file merged into it."""
    file = _read(path)
    check_official_values(file)
    drop_official_keys(file)
    own = _merge(config, file, f"{where}: {path}")
    for key in _leaves(OmegaConf.to_container(file)):
        of_run, of_file = (OmegaConf.select(each, key) for each in (config, own))
        if not OF_A_STUDENT.fullmatch(key) and of_file != of_run:
            raise ConfigError(
                f"{where}: {path} sets {key} to {of_file}, the run's is {of_run}; it must be equal for all "
                "students"
            )
    return own


def _leaves(values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all values that are not groups."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _find_files(config: Any, source: Path) -> None:
    """Make paths of other configurations absolute: official files name them from their repository's root."""
    for entry in config.multidistillation.students:
        entry.config_path = _found(entry.config_path, source)
    if teacher := OmegaConf.select(config, "distillation.full_cfg_path"):  # None where it is still missing
        config.distillation.full_cfg_path = _found(teacher, source)


def _found(name: str, source: Path) -> str:
    """`name` if it exists, else the file of its longest ending near `source`, else `name`."""
    if not name or Path(name).is_absolute() or Path(name).exists():
        return name
    parts = Path(name).parts
    for start in range(len(parts)):
        for folder in source.resolve().parents:
            if (found := folder.joinpath(*parts[start:])).is_file():
                return str(found)
    return name


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
    try:
        merged = OmegaConf.merge(config, given)
        for key in OmegaConf.missing_keys(given):  # "???": a value must be given, despite the default
            OmegaConf.update(merged, key, "???")
        return merged
    except OmegaConfBaseException as error:
        key = f" at {error.full_key}" if error.full_key else ""
        raise ConfigError(f"{where}{key}: {reason_of(error)}") from error
