"""Official configuration files can be read unchanged."""

from __future__ import annotations

from pathlib import Path

from dinov3_ref.configs import load_config


def test_an_official_file_is_read(tmp_path: Path) -> None:
    """Unused keys are dropped, keys with one supported value are checked."""
    file = tmp_path / "official.yaml"
    file.write_text(
        "MODEL: {META_ARCHITECTURE: SSLMetaArch, DEVICE: cuda, DTYPE: float32, WEIGHTS: ''}\n"
        "dino: {head_norm_last_layer: false, force_weight_norm: false, loss_weight: 0.5}\n"
        "ibot: {separate_head: true}\n"
        "train: {saveckp_freq: 20, monitor_gradient_norm: false, cudagraphs: false}\n"
        "hrft: {enabled: false}\n"
        "student: {fp8_enabled: false, fp8_filter: blocks, arch: vit_base}\n"
        "multidistillation: {enabled: false, global_batch_size: 64, students: [{config_path: x.yaml}]}\n"
    )
    config = load_config(file)
    assert (config.dino.loss_weight, config.student.arch) == (0.5, "vit_base")
