"""Configuration with attribute access and checked keys (SEED S29): OmegaConf over dataclasses."""

from dinov3_ref.configs.default import Config, Crops, Student, get_default_config

__all__ = ["Config", "Crops", "Student", "get_default_config"]
