"""The default configuration: official defaults, attributes, and no key that does not exist (SPEC 4.1)."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from dinov3_ref.configs import get_default_config

# SPEC 4.1, row "student", and 1.2 where that row is silent.
STUDENT = {
    "arch": "vit_large",
    "patch_size": 16,
    "in_chans": 3,
    "drop_path_rate": 0.3,
    "layerscale": 1e-5,
    "ffn_layer": None,  # what the architecture says
    "ffn_ratio": None,
    "qkv_bias": True,
    "proj_bias": True,
    "ffn_bias": True,
    "norm_layer": "layernorm",
    "n_storage_tokens": 0,
    "mask_k_bias": False,
    "untie_cls_and_patch_norms": False,
    "untie_global_and_local_cls_norm": False,
    "pos_embed_rope_base": 100.0,
    "pos_embed_rope_min_period": None,
    "pos_embed_rope_max_period": None,
    "pos_embed_rope_normalize_coords": "separate",
    "pos_embed_rope_shift_coords": None,
    "pos_embed_rope_jitter_coords": None,
    "pos_embed_rope_rescale_coords": None,
    "pos_embed_rope_dtype": "bf16",
}


def test_official_defaults() -> None:
    container = OmegaConf.to_container(get_default_config())
    assert container == {"student": STUDENT, "crops": {"global_crops_size": 224}}


def test_keys_are_attributes_and_every_call_gives_a_fresh_configuration() -> None:
    config = get_default_config()
    config.student.arch = "vit_base"
    config.student.patch_size = 8
    assert (config.student.arch, config["student"]["patch_size"]) == ("vit_base", 8)
    assert get_default_config().student.arch == "vit_large"


def test_a_misspelt_key_is_an_error() -> None:
    config = get_default_config()
    with pytest.raises(ConfigAttributeError, match="n_registers"):
        config.student.n_registers = 4
    with pytest.raises(ConfigAttributeError, match="studnet"):
        _ = config.studnet
    with pytest.raises(ConfigKeyError, match="archh"):
        OmegaConf.merge(config, {"student": {"archh": "vit_base"}})


def test_a_value_of_another_type_is_an_error() -> None:
    config = get_default_config()
    with pytest.raises(ValidationError, match="sixteen"):
        config.student.patch_size = "sixteen"
    with pytest.raises(ValidationError):
        config.student.n_storage_tokens = None


def test_it_survives_yaml_and_takes_overrides_from_a_command_line() -> None:
    config = get_default_config()
    again = OmegaConf.merge(get_default_config(), OmegaConf.create(OmegaConf.to_yaml(config)))
    assert again == config
    overridden = OmegaConf.merge(
        config, OmegaConf.from_dotlist(["student.arch=vit_7b", "student.patch_size=14"])
    )
    assert (overridden.student.arch, overridden.student.patch_size) == ("vit_7b", 14)
