"""Several students of one teacher: each is bit-equal to a separate distillation run; all resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from dinov3_ref.checkpoints import load_checkpoint
from dinov3_ref.configs import load_config
from dinov3_ref.data import build_training_loader
from dinov3_ref.errors import CheckpointError, ConfigError
from dinov3_ref.train import checkpoints
from dinov3_ref.train.__main__ import main
from dinov3_ref.train.loop import TrainingRun
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from dinov3_ref.train.students import train_students
from tests.support.training.ranks import run_on_ranks
from tests.support.training.toy_training import (
    frozen_teacher,
    on_ranks,
    records,
    tiny_run,
    tiny_training,
    with_students,
)

STUDENTS: dict[str, dict[str, Any]] = {
    "small": {"student": {"drop_path_rate": 0.4, "pos_embed_rope_rescale_coords": 2.0}},
    "wide": {"student": {"embed_dim": 64, "depth": 1}, "optim": {"lr": 3e-3, "layerwise_decay": 0.7}},
}
STEADY = STUDENTS | {"small": {}}  # without random numbers, which differ between ranks
ITERATIONS = 6  # checkpoints after 1, 3 and 5, of which two are kept


def configure(photos: Path, teacher: Path, output: Path, *overrides: str) -> Any:
    return tiny_run(
        photos,
        output,
        *frozen_teacher(teacher),
        "crops.global_crops_size=64",
        "crops.local_crops_size=32",
        "crops.teacher_to_student_resolution_scale=2.0",
        "optim.epochs=3",
        "checkpointing.period=2",
        "checkpointing.max_to_keep=2",
        *overrides,
    )


def several(
    photos: Path, teacher: Path, output: Path, *overrides: str, students: dict[str, Any] = STUDENTS
) -> Any:
    return with_students(configure(photos, teacher, output, *overrides), students)


def alone(name: str, config: Any) -> Any:
    return OmegaConf.merge(config, OmegaConf.create(STUDENTS[name]))


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = (torch.load(output / "teacher.pth")["teacher"] for output in (a, b))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def together(photos: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("together")
    config = several(photos, teacher, output)
    train_students(config, build_training_loader(config))
    return output


@pytest.mark.parametrize(("centering", "accumulation"), [("sinkhorn_knopp", 1), ("softmax_center", 2)])
def test_each_student_equals_a_separate_run(
    centering: str,
    accumulation: int,
    photos: Path,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit-equal losses, norms, rates and weights; the teacher runs once per batch."""
    calls: list[int] = []
    ask = SSLMetaArch.get_teacher_output

    def count(self: SSLMetaArch, images: torch.Tensor, **named: Any) -> Any:
        calls.append(len(images))
        return ask(self, images, **named)

    choice = (f"train.centering={centering}", f"train.accumulation_steps={accumulation}", "optim.epochs=2")
    monkeypatch.setattr(SSLMetaArch, "get_teacher_output", count)
    config = several(photos, teacher, tmp_path / "run", *choice)
    train_students(config, build_training_loader(config))
    assert len(calls) == 4 * accumulation
    told = []
    for name in STUDENTS:
        single = alone(name, configure(photos, teacher, tmp_path / name, *choice))
        TrainingRun(single, build_training_loader(single)).train()
        student = tmp_path / "run" / "students" / name
        told.append(records(student))
        assert told[-1] == records(tmp_path / name)
        assert same_weights(student, tmp_path / name)
    assert told[0] != told[1]


def test_files_of_a_run(together: Path) -> None:
    assert sorted(path.name for path in together.iterdir()) == ["config.yaml", "students"]
    assert load_config(together / "config.yaml").multidistillation.enabled
    for name, width in (("small", 32), ("wide", 64)):
        student = together / "students" / name
        weights = load_file(student / "teacher" / "model.safetensors")
        assert weights["cls_token"].shape[-1] == width
        assert load_checkpoint(student / "teacher").state.keys() == weights.keys()
        own = load_config(student / "config.yaml")  # of a separate distillation run
        assert own.distillation.enabled
        assert not own.multidistillation.enabled
        assert own.student.embed_dim == width
        assert len(records(student)) == ITERATIONS
        assert checkpoints.finished(student) == [3, 5]


# ---- resuming -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_asynchronous_checkpoints_of_students(
    together: Path, photos: Path, teacher: Path, tmp_path: Path
) -> None:
    """The same students, and the newest two checkpoints of each."""
    config = several(photos, teacher, tmp_path / "run", "checkpointing.asynchronous=true")
    train_students(config, build_training_loader(config))
    for name in STUDENTS:
        own = tmp_path / "run" / "students" / name
        assert same_weights(own, together / "students" / name)
        assert checkpoints.finished(own) == [3, 5]
        assert not list((own / "ckpt").glob(".*"))


@pytest.mark.parametrize("killed", ["between checkpoints", "between the students' checkpoints"])
def test_students_resume_together(
    killed: str, together: Path, photos: Path, teacher: Path, tmp_path: Path
) -> None:
    """From the newest checkpoint that all have: a student that was further goes back."""
    copy = Path(shutil.copytree(together, tmp_path / "run"))
    behind = STUDENTS if killed == "between checkpoints" else ["wide"]
    for name in behind:
        shutil.rmtree(copy / "students" / name / "ckpt" / "5")
    config = several(photos, teacher, copy)
    train_students(config, build_training_loader(config))
    for name in STUDENTS:
        assert records(copy / "students" / name) == records(together / "students" / name)
        assert same_weights(copy / "students" / name, together / "students" / name)


def test_a_student_added_later_is_refused(
    together: Path, photos: Path, teacher: Path, tmp_path: Path
) -> None:
    """The others are not overwritten. But a run that was killed in its first checkpoint starts again."""
    copy = Path(shutil.copytree(together, tmp_path / "run"))
    shutil.rmtree(copy / "students" / "wide")
    config = several(photos, teacher, copy)
    with pytest.raises(CheckpointError, match="students small and wide have no checkpoint in common") as told:
        train_students(config, build_training_loader(config))
    assert "\n" not in str(told.value)
    ckpt = copy / "students" / "small" / "ckpt"
    shutil.rmtree(ckpt / "5")
    (ckpt / "3").rename(ckpt / "1")
    train_students(config, build_training_loader(config))
    assert records(copy / "students" / "small") == records(together / "students" / "small")


def train_on_this_rank(photos: str, teacher: str, output: str, batch: int, strategy: str) -> None:
    config = several(
        Path(photos),
        Path(teacher),
        Path(output),
        *on_ranks(batch, strategy),
        "optim.epochs=2",
        students=STEADY,
    )
    train_students(config, build_training_loader(config))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["NO_SHARD", "FULL_SHARD"])
def test_on_two_ranks(strategy: str, photos: Path, teacher: Path, tmp_path: Path) -> None:
    """The same global batch: relative 1e-5 over the whole curves."""
    (tmp_path / "ranks").mkdir()
    paths = str(photos), str(teacher)
    run_on_ranks(train_on_this_rank, 2, tmp_path / "ranks", *paths, str(tmp_path / "two"), 1, strategy)
    train_on_this_rank(*paths, str(tmp_path / "one"), 2, strategy)
    for name in STUDENTS:
        folders = [tmp_path / ranks / "students" / name for ranks in ("one", "two")]
        one, two = ([record["total_loss"] for record in records(folder)] for folder in folders)
        assert len(one) == 4
        assert two == pytest.approx(one, rel=1e-5)


# ---- the command, and misuse ----------------------------------------------------------------------


def test_the_command(photos: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = several(photos, teacher, tmp_path / "run", "optim.epochs=2")
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert main(["--config", str(tmp_path / "config.yaml"), "train.log_period=4"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [f"{tmp_path}/run/students/{name}/teacher" for name in STUDENTS]
    assert [line.split("  ")[:2] for line in told.err.splitlines()] == [[name, "4/4"] for name in STUDENTS]


@pytest.mark.parametrize(
    ("students", "words"),
    [
        ("[]", "are named []; wanted at least one"),
        ("[{name: a}, {name: a}]", "wanted at least one, each with a unique name"),
        ("[{name: ../a}]", "of letters"),
        ("[{student: {arch: vit_small}}]", "multidistillation.students[0].name has no value"),
        ("[{name: a, student: {patch_size: 8}}]", "a sets student.patch_size, which must be equal"),
        ("[{name: a, optim: {epochs: 8}}]", "a sets optim.epochs"),
        ("[{name: a, student: {depht: 8}}]", "students: a at student.depht: Key 'depht'"),
        ("[{name: a, optim: {lr: fast}}]", "students: a at optim.lr: Value 'fast'"),
        ("[{name: a, config_path: x.yaml}]", "x.yaml is neither a file nor a recipe"),
        (
            "[{name: a, student: {arch: convnext_tiny}}]",
            "a: crops.local_crops_size is 32, of which convnext_tiny sees 16 px",
        ),
    ],
)
def test_misuse_is_one_line(
    students: str,
    words: str,
    photos: Path,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    OmegaConf.save(configure(photos, teacher, tmp_path / "run"), tmp_path / "config.yaml")
    given = f"multidistillation={{enabled: true, students: {students}}}"
    assert main(["--config", str(tmp_path / "config.yaml"), given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


def test_students_need_a_teacher() -> None:
    with pytest.raises(ConfigError, match=r"needs distillation\.enabled=true"):
        tiny_training("multidistillation={enabled: true, students: [{name: a}]}")


def test_a_student_without_a_teacher_needs_targets(photos: Path, teacher: Path, tmp_path: Path) -> None:
    config = configure(photos, teacher, tmp_path / "run")
    arch = SSLMetaArch(config, own_teacher=False)
    batch = next(iter(build_training_loader(config)))
    with pytest.raises(ValueError, match="its batches must contain 'teacher_targets'"):
        arch.forward_loss(batch, teacher_temp=0.05)
