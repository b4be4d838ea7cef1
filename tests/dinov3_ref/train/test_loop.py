"""The training loop: files it writes, and bit-exact resume of interrupted and killed runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from dinov3_ref.configs import load_config
from dinov3_ref.data import build_training_loader
from dinov3_ref.errors import CheckpointError, TrainingDiverged
from dinov3_ref.train import checkpoints
from dinov3_ref.train.logging.run_log import read_metrics
from dinov3_ref.train.loop import Throughput, TrainingRun
from tests.support.training.ranks import run_on_ranks
from tests.support.training.toy_training import losses, on_ranks, records, tiny_run

RANDOMNESS = ("student.drop_path_rate=0.4", "student.pos_embed_rope_rescale_coords=2.0")
ITERATIONS, PERIOD = 8, 3  # checkpoints after iterations 2, 5 and 7


def configure(photos: Path, output: Path, *overrides: str) -> Any:
    return tiny_run(
        photos,
        output,
        f"checkpointing.period={PERIOD}",
        *overrides,
    )


def run(config: Any) -> list[dict[str, Any]]:
    """Train; return the records without timings."""
    TrainingRun(config, build_training_loader(config)).train()
    return records(Path(config.train.output_dir))


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run of eight iterations without interruption."""
    output = tmp_path_factory.mktemp("whole")
    return output, run(configure(photos, output, *RANDOMNESS))


def test_files_of_a_run(whole: tuple[Path, list[dict[str, Any]]]) -> None:
    output, told = whole
    assert sorted(path.name for path in output.iterdir()) == [
        "ckpt",
        "config.yaml",
        "evaluations.json",
        "teacher",
        "teacher.pth",
        "training_metrics.json",
    ]
    assert checkpoints.finished(output) == [2, 5, 7]
    assert [record["iteration"] for record in told] == list(range(ITERATIONS))
    assert {"total_loss", "ibot_loss", "koleo_loss", "lr", "momentum", "backbone_grad_norm"} <= set(told[0])
    assert load_config(output / "config.yaml").student.embed_dim == 32
    again = load_file(output / "teacher" / "model.safetensors")
    teacher = torch.load(output / "teacher.pth")["teacher"]
    assert {f"backbone.{name}" for name in again} == {n for n in teacher if n.startswith("backbone.")}
    assert any(name.startswith("ibot_head.") for name in teacher)
    assert sorted(path.name for path in (output / "teacher").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


# ---- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [2, 5])
def test_a_resumed_run_is_bit_equal(
    last: int, whole: tuple[Path, list[dict[str, Any]]], photos: Path, tmp_path: Path
) -> None:
    """With drop-path and RoPE augmentation; records after the checkpoint are dropped."""
    output, told = whole
    copy = Path(shutil.copytree(output, tmp_path / "run"))
    for iteration in checkpoints.finished(copy):
        if iteration > last:
            shutil.rmtree(copy / "ckpt" / str(iteration))
    with (copy / "training_metrics.json").open("a") as stream:
        stream.write('{"iteration": 8, "total')  # an incomplete line
    resumed = run(configure(photos, copy, *RANDOMNESS))
    assert resumed == told
    ours, theirs = (
        load_file(copy / "teacher" / "model.safetensors"),
        load_file(output / "teacher" / "model.safetensors"),
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_asynchronous_checkpoint_is_that_of_its_iteration(
    whole: tuple[Path, list[dict[str, Any]]],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The training goes on while the state is written: the resumed run is bit-equal, the losses are too."""
    write, during = FileSystemWriter.write_data, []

    def write_late(self: Any, *args: Any, **named: Any) -> Any:
        time.sleep(0.3)  # several steps
        during.append(threading.current_thread() is threading.main_thread())
        return write(self, *args, **named)

    monkeypatch.setattr(FileSystemWriter, "write_data", write_late)
    config = configure(photos, tmp_path / "run", *RANDOMNESS, *ASYNCHRONOUS, "checkpointing.max_to_keep=2")
    assert run(config) == whole[1]
    assert during == [False] * 3
    assert checkpoints.finished(tmp_path / "run") == [5, 7]
    shutil.rmtree(tmp_path / "run" / "ckpt" / "7")
    assert run(config) == whole[1]
    assert not list((tmp_path / "run" / "ckpt").glob(".*"))


ASYNCHRONOUS = ("checkpointing.asynchronous=true",)
KILLED = """
import os, signal, sys
from dinov3_ref.train import checkpoints
from dinov3_ref.train.__main__ import main
from dinov3_ref.train.logging.run_log import MetricsFile

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if {where!r} == "while saving":
    save, calls = checkpoints.state_dict_saver.save, []
    def save_and_die(*args, **kwargs):
        save(*args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            die()
    checkpoints.state_dict_saver.save = save_and_die
elif {where!r} == "while a thread writes":
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    write, calls = FileSystemWriter.finish, []
    def write_and_die(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            die()
        write(self, *args, **kwargs)
    FileSystemWriter.finish = write_and_die
else:
    append = MetricsFile.append
    MetricsFile.append = lambda self, record: append(self, record) if record["iteration"] < 4 else die()
main(["--config", {config!r}])
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["while saving", "while a thread writes", "while training"])
def test_killed_runs_resume(
    where: str, whole: tuple[Path, list[dict[str, Any]]], photos: Path, tmp_path: Path
) -> None:
    """kill -9 before the second checkpoint is renamed to its final name; and in iteration 4."""
    options = ASYNCHRONOUS if where == "while a thread writes" else ()
    config = configure(photos, tmp_path / "run", *RANDOMNESS, *options)
    OmegaConf.save(config, tmp_path / "config.yaml")
    program = KILLED.format(where=where, config=str(tmp_path / "config.yaml"))
    killed = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert checkpoints.finished(tmp_path / "run") == [2]
    assert run(config) == whole[1]
    assert not list((tmp_path / "run" / "ckpt").glob(".*"))


def test_a_finished_run_is_not_changed(
    whole: tuple[Path, list[dict[str, Any]]], photos: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(whole[0], tmp_path / "run"))
    assert run(configure(photos, copy, *RANDOMNESS)) == whole[1]


def test_a_checkpoint_of_another_model(
    whole: tuple[Path, list[dict[str, Any]]], photos: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(whole[0], tmp_path / "run"))
    for change in ("student.embed_dim=64", "student.depth=3"):
        with pytest.raises(CheckpointError, match=r"cannot be resumed .* another configuration") as raised:
            run(configure(photos, copy, change))
        assert "\n" not in str(raised.value)


# ---- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_half_precision_runs(kind: str, photos: Path, tmp_path: Path) -> None:
    told = run(
        configure(
            photos,
            tmp_path / "run",
            f"compute_precision.param_dtype={kind}",
            "optim.epochs=2",
            "teacher.warmup_teacher_temp_epochs=1",
        )
    )
    assert len(told) == 4
    assert all(torch.tensor(record["total_loss"]).isfinite() for record in told)


class Poisoned:
    """A loader that gives NaN pixels from its third batch on."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.load_state_dict, self.state_dict = loader.load_state_dict, loader.state_dict

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(self.loader):
            if number >= 2:
                batch["collated_global_crops"] = batch["collated_global_crops"] * float("nan")
            yield batch


def test_nan_steps_are_skipped_and_then_training_stops(photos: Path, tmp_path: Path) -> None:
    config = configure(photos, tmp_path / "run", "train.centering=softmax_center")
    training = TrainingRun(config, Poisoned(build_training_loader(config)))
    with pytest.raises(TrainingDiverged, match="3 steps in a row"):
        training.train()
    assert all(value.isfinite().all() for value in training.arch.state_dict().values())
    told = read_metrics(tmp_path / "run")
    assert [record["iteration"] for record in told] == [0, 1, 2, 3]


# ---- ranks --------------------------------------------------------------------------------------

GLOBAL_BATCH = 4


class RecordingLoader:
    """A loader that records the positions of its samples."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.positions = loader, [torch.zeros(0, dtype=torch.long)]
        self.load_state_dict, self.state_dict = loader.load_state_dict, loader.state_dict

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            self.positions.append(batch["positions"])
            yield batch


def test_gram_anchoring_resumes_a_run_without_it(
    photos: Path, whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The published second stage continues the first stage's run: its Gram teacher is the EMA teacher."""
    copy = tmp_path / "run"
    shutil.copytree(whole[0], copy)
    gram = ("gram.use_loss=true", "gram.ckpt=ignore", "crops.gram_teacher_crops_size=32", "optim.epochs=5")
    config = configure(photos, copy, *RANDOMNESS, *gram)
    resumed = TrainingRun(config, build_training_loader(config))
    assert resumed.resume(7) == 8
    assert resumed.arch.gram_teacher is not None
    anchors = resumed.arch.gram_teacher["backbone"].state_dict()
    ema = resumed.arch.model_ema["backbone"].state_dict()
    assert all(torch.equal(anchors[key], ema[key]) for key in ema)
    told = run(config)
    assert [record["iteration"] for record in told] == list(range(10))
    assert "gram_loss" in told[-1]
    assert run(config) == told, "and its own checkpoint has a Gram teacher"


def run_on_this_rank(photos: str, output: str, batch: int, *overrides: str) -> torch.Tensor:
    """Train on this rank; return the positions of its samples."""
    config = configure(
        Path(photos),
        Path(output),
        *on_ranks(batch),
        *overrides,
    )
    loader = RecordingLoader(build_training_loader(config))
    TrainingRun(config, loader).train()
    return torch.cat(loader.positions)


def run_on_two(photos: Path, output: Path, folder: Path, *overrides: str) -> list[torch.Tensor]:
    folder.mkdir()
    return run_on_ranks(run_on_this_rank, 2, folder, str(photos), str(output), GLOBAL_BATCH // 2, *overrides)


def forget_after(iteration: int, output: Path) -> None:
    for later in checkpoints.finished(output):
        if later > iteration:
            shutil.rmtree(output / "ckpt" / str(later))


@pytest.fixture(scope="module")
def alone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank with the whole batch."""
    output = tmp_path_factory.mktemp("alone")
    drawn = run_on_this_rank(str(photos), str(output), GLOBAL_BATCH)
    assert drawn.tolist() == list(range(GLOBAL_BATCH * ITERATIONS))
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "options"), [("NO_SHARD", ()), ("SHARD_GRAD_OP", ()), ("SHARD_GRAD_OP", ASYNCHRONOUS)]
)
def test_two_ranks_equal_one_and_one_resumes_two(
    strategy: str, options: tuple[str, ...], alone: Path, photos: Path, tmp_path: Path
) -> None:
    """The same global batch: relative 1e-5 over the whole curve."""
    together = tmp_path / "together"
    run_on_two(
        photos, together, tmp_path / "ranks", f"compute_precision.sharding_strategy={strategy}", *options
    )
    assert checkpoints.finished(together) == [2, 5, 7]
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)

    forget_after(2, together)
    run_on_this_rank(str(photos), str(together), GLOBAL_BATCH)
    assert len(losses(together)) == ITERATIONS
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["NO_SHARD", "FULL_SHARD"])
def test_two_ranks_resume_one(strategy: str, alone: Path, photos: Path, tmp_path: Path) -> None:
    """A run of one rank resumes with FSDP or DDP: the same samples, losses and teacher."""
    grown = Path(shutil.copytree(alone, tmp_path / "grown"))
    forget_after(2, grown)
    (grown / "teacher.pth").unlink()
    drawn = run_on_two(photos, grown, tmp_path / "ranks", f"compute_precision.sharding_strategy={strategy}")
    left = range(GLOBAL_BATCH * 3, GLOBAL_BATCH * ITERATIONS)
    assert [rank.tolist() for rank in drawn] == [list(left[0::2]), list(left[1::2])]
    assert len(losses(grown)) == ITERATIONS
    assert losses(grown) == pytest.approx(losses(alone), rel=1e-5)
    wanted, got = (torch.load(output / "teacher.pth")["teacher"] for output in (alone, grown))
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (got[name] - value).norm() <= 1e-5 * value.norm(), name


def test_images_per_second_and_waiting() -> None:
    throughput = Throughput()
    with throughput.waiting_for(6):
        time.sleep(0.02)
    time.sleep(0.02)
    read = throughput.read()
    assert 0.1 < read["data_share"] < 0.9
    assert 10 < read["images_per_second"] < 150  # 6 in 40 ms, or longer on a busy machine
    assert throughput.read()["images_per_second"] == 0


def test_paused_time_does_not_count() -> None:
    throughput = Throughput()
    with throughput.waiting_for(6):
        time.sleep(0.01)
    with throughput.paused():
        time.sleep(0.2)
    assert throughput.read()["images_per_second"] > 30  # and not 6 in 0.21 s
