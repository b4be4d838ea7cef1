"""Configuration with checked keys and attribute access: OmegaConf over dataclasses.

Source: docs/spec.md 4.1; docs/development/seed.md S29.
"""

from dinov3_ref.configs.checks import check_config, check_ready, set_global_batch
from dinov3_ref.configs.default import Config, Crops, Ramp, Student, get_default_config
from dinov3_ref.configs.load import load_config, recipe_names, student_configs

__all__ = [
    "Config",
    "Crops",
    "Ramp",
    "Student",
    "check_config",
    "check_ready",
    "get_default_config",
    "load_config",
    "recipe_names",
    "set_global_batch",
    "student_configs",
]
