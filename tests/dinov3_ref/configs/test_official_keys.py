"""Official configuration files, all fourteen, can be read unchanged.

tests/data/official_configs.json has the keys and values of facebookresearch/dinov3's configuration files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dinov3_ref.configs import check_ready, load_config, set_global_batch, student_configs
from dinov3_ref.configs.official_keys import UNREAD, UNUSED
from dinov3_ref.errors import ConfigError
from tests.support.training.official_configs import FILES, leaves

PATHS = ("multidistillation.students", "distillation.full_cfg_path")  # made absolute, or lists of groups


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published files, as a checkout of the official repository has them."""
    root = tmp_path_factory.mktemp("official") / "dinov3/configs"
    for name, values in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(values))
    return root


@pytest.mark.parametrize("name", FILES)
def test_every_acting_value_of_a_file(name: str, folder: Path) -> None:
    notes: list[str] = []
    config = load_config(folder / name, note=notes.append)
    given = dict(leaves(FILES[name]))
    idle = {key for key in given if key in UNREAD or any(f"{key}.".startswith(f"{u}.") for u in UNUSED)}
    named = notes[0].partition("change nothing: ")[2].split(", ") if notes else []
    assert {key for key in given if any(f"{key}.".startswith(f"{n}.") for n in named)} == (
        idle if idle - set(UNREAD) else set()
    )
    for key, value in given.items():
        if key in idle or key in PATHS or (value is None and OmegaConf.select(config, key) is not None):
            assert value is not None or key.split(".")[0] in ("optim", "teacher", "train") or key in idle, key
            continue
        found = OmegaConf.select(config, key)
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        assert found == (float(value) if isinstance(found, float) else value), key


def test_a_null_is_only_taken_where_schedules_replace_the_value(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim: {lr: null}")
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        load_config(file)


def test_a_key_that_neither_code_has_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("MODEL: {META_ARCHITECTURE: SSLMetaArch}\nstudent: {block_chunk: 4}")
    with pytest.raises(ConfigError, match="block_chunk"):
        load_config(file)


def test_keys_that_the_official_code_never_reads_act_in_files_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("student: {ffn_ratio: 2.0}")
    assert load_config(file).student.ffn_ratio == 2.0
    file.write_text("MODEL: {DEVICE: cuda}\nstudent: {ffn_ratio: 2.0}")
    assert load_config(file).student.ffn_ratio is None
    assert load_config(file, ["student.ffn_ratio=3"]).student.ffn_ratio == 3


def test_fp8_is_an_error_where_a_training_starts_and_can_be_switched_off(folder: Path) -> None:
    file = folder / "train/dinov3_vit7b16_pretrain.yaml"
    with pytest.raises(ConfigError, match=r"set student\.fp8_enabled=false"):
        check_ready(load_config(file))
    check_ready(load_config(file, ["student.fp8_enabled=false"]))


def test_an_override_switches_off_what_is_not_implemented(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: {cudagraphs: true}")
    with pytest.raises(ConfigError, match=r"train\.cudagraphs is True"):
        load_config(file)
    load_config(file, ["train.cudagraphs=false"])


def test_a_gram_teacher_without_a_file_is_an_error_where_a_training_starts(folder: Path) -> None:
    file = folder / "train/dinov3_vit7b16_high_res_adapt.yaml"
    with pytest.raises(ConfigError, match=r"needs gram\.ckpt"):
        check_ready(load_config(file, ["student.fp8_enabled=false"]))
    check_ready(load_config(file, ["student.fp8_enabled=false", "gram.ckpt=teacher.pth"]))


def test_students_have_the_keys_of_their_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are named from the root of the repository, wherever the run starts."""
    monkeypatch.chdir(folder.parent)
    config = load_config(folder / "train/distillation_convnext/multi_distillation_convnext_test.yaml")
    own = student_configs(config)
    assert [student.student.arch for student in own.values()] == [
        "convnext_tiny",
        "convnext_small",
        "convnext_base",
        "convnext_large",
    ]
    assert [student.schedules.lr.peak for student in own.values()] == [2e-4, 2e-4, 1e-4, 1e-4]
    assert [student.schedules.weight_decay.start for student in own.values()] == [0.04, 0.04, 0.02, 0.04]
    assert {student.optim.epochs for student in own.values()} == {500}
    assert Path(config.distillation.full_cfg_path) == folder / "train/vitl_im1k_lin834.yaml"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("crops: {global_crops_size: 256}", r"sets crops\.global_crops_size to 256, the run's is 224"),
        ("optim: {epochs: 3}", r"optim\.epochs is 3 for b and 100 for a"),
        ("student: {archh: vit_base}", "archh"),
    ],
)
def test_files_of_students_that_cannot_train_together(second: str, message: str, tmp_path: Path) -> None:
    for name, text in (("a", "student: {arch: vit_small}\ntrain: {checkpointing: true}"), ("b", second)):
        (tmp_path / f"{name}.yaml").write_text(text)
    run = tmp_path / "run.yaml"
    run.write_text(
        "distillation: {enabled: true, full_cfg_path: x, checkpoint_path: ignore}\n"
        "multidistillation: {enabled: true, students: [{name: a, config_path: a.yaml}, "
        "{name: b, config_path: b.yaml}]}"
    )
    with pytest.raises(ConfigError, match=message) as raised:
        student_configs(load_config(run))
    assert "\n" not in str(raised.value)


def test_a_student_file_that_is_missing_is_an_error_where_a_training_starts(folder: Path) -> None:
    config = load_config(folder / "train/dinov3_vitl16_lvd1689m_distilled.yaml")
    with pytest.raises(ConfigError, match=r"vits_mlp4_4\.yaml> is neither a file nor a recipe"):
        student_configs(config)


def test_the_global_batch_is_divided_over_the_ranks(folder: Path) -> None:
    config = load_config(folder / "train/dinov3_vitl16_lvd1689m_distilled.yaml")
    set_global_batch(config, 640)
    assert config.train.batch_size_per_gpu == 3
    with pytest.raises(ConfigError, match="global_batch_size is 1920; wanted a multiple of 7 "):
        set_global_batch(config, 7)


def test_the_architecture_agrees_with_the_students(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("MODEL: {META_ARCHITECTURE: MultiDistillationMetaArch}")
    with pytest.raises(ConfigError, match=r"multidistillation\.enabled is None; wanted true for both"):
        load_config(file)
