"""The configuration of each of several students (docs/spec.md 4.17)."""

from __future__ import annotations

import pytest

from dinov3_ref.configs import load_config, student_configs
from dinov3_ref.errors import ConfigError

TEACHER = ("distillation.enabled=true", "distillation.full_cfg_path=x", "distillation.checkpoint_path=ignore")


def configure(students: str) -> list[str]:
    return [*TEACHER, f"multidistillation={{enabled: true, students: {students}}}", "train.output_dir=out"]


def test_a_student_merges_its_own_keys() -> None:
    config = load_config(
        None, configure("[{name: a}, {name: b, student: {arch: vit_base}, optim: {lr: 1e-4}}]")
    )
    own = student_configs(config)
    assert list(own) == ["a", "b"]
    assert (own["a"].student.arch, own["b"].student.arch) == ("vit_large", "vit_base")
    assert own["b"].optim.lr == 1e-4
    assert own["b"].train.output_dir == "out/students/b"
    assert not own["b"].multidistillation.enabled
    assert own["b"].crops == config.crops


@pytest.mark.parametrize(
    ("students", "message"),
    [
        ("[]", "wanted at least one"),
        ("[{name: a}, {name: a}]", "each with a unique name"),
        ("[{name: ../a}]", "of letters, digits"),
        ("[{name: a, student: {patch_size: 8}}]", "a sets student.patch_size"),
    ],
)
def test_wrong_students(students: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, configure(students))
