"""Signals: a checkpoint is written before the run ends, and the resumed run is bit-equal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dinov3_ref.train import checkpoints
from dinov3_ref.train.stop_requests import StopRequests
from tests.support.training.toy_training import records, tiny_run

ITERATIONS = 8
# What the process does with itself after the metrics of an iteration.
PROGRAM = """
import os, signal, sys, time
from dinov3_ref.train.__main__ import main
from dinov3_ref.train.step import TrainingStep

step = TrainingStep.__call__
def stepped(self, batches, iteration, rates):
    result = step(self, batches, iteration, rates)
    if iteration == {at}:
        {action}
    return result
TrainingStep.__call__ = stepped
sys.exit(main(["--config", {config!r}]))
"""


def configure(photos: Path, output: Path, *overrides: str) -> Any:
    return tiny_run(photos, output, "checkpointing.period=3", "student.drop_path_rate=0.3", *overrides)


def train(config: Any, folder: Path, at: int = -1, action: str = "pass") -> subprocess.CompletedProcess[str]:
    """Train in a process group of its own, so that a signal to the group reaches the workers too."""
    OmegaConf.save(config, folder / "config.yaml")
    program = PROGRAM.format(at=at, action=action, config=str(folder / "config.yaml"))
    return run([sys.executable, "-c", program], timeout=120)


def run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run it in a process group of its own, so that a signal to the group stays in it."""
    return subprocess.run(
        command,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    done = train(configure(photos, folder / "run"), folder)
    assert done.returncode == 0, done.stderr
    return records(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_writes_a_checkpoint(
    name: str, workers: int, whole: list[dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    """The signal goes to the whole process group, as a terminal and Slurm send it."""
    number = getattr(signal, name)
    config = configure(photos, tmp_path / "run", f"train.num_workers={workers}")
    stopped = train(config, tmp_path, 4, f"os.killpg(0, {int(number)})")
    assert stopped.returncode == 128 + number, stopped.stderr
    assert stopped.stderr.splitlines()[-1] == (
        f"stopped by {name} after iteration 5; run the same command again to resume from there"
    )
    assert "Traceback" not in stopped.stderr
    assert checkpoints.finished(tmp_path / "run") == [2, 4]
    assert train(config, tmp_path).returncode == 0
    assert records(tmp_path / "run") == whole


@pytest.mark.slow
def test_the_evaluation_that_a_signal_prevented_is_done_when_resumed(photos: Path, tmp_path: Path) -> None:
    config = configure(
        photos,
        tmp_path / "run",
        "evaluation.eval_period_iterations=5",
        f"evaluation.train_dataset_path={photos}",
        f"evaluation.test_dataset_path={photos}",
    )
    stopped = train(config, tmp_path, 4, "os.kill(os.getpid(), signal.SIGTERM)")
    assert stopped.returncode == 143, stopped.stderr
    assert checkpoints.finished(tmp_path / "run") == [2, 4]
    assert evaluated(tmp_path / "run") == []
    resumed = train(config, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert evaluated(tmp_path / "run") == [4, 7]


def evaluated(output: Path) -> list[int]:
    """Iterations after which the run was evaluated."""
    files = list(output.rglob("*eval*.json"))
    lines = [line for path in files for line in path.read_text().splitlines()]
    return sorted({json.loads(line)["iteration"] for line in lines})


LATE = """
from torch.distributed.checkpoint.filesystem import FileSystemWriter
write = FileSystemWriter.write_data
def write_late(*args):
    time.sleep(0.5)
    return write(*args)
FileSystemWriter.write_data = write_late
"""


@pytest.mark.slow
def test_a_stop_waits_for_the_asynchronous_checkpoint(
    whole: list[dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    config = configure(photos, tmp_path / "run", "checkpointing.asynchronous=true")
    stopped = train(config, tmp_path, 4, f"exec({LATE!r}, globals()); os.kill(os.getpid(), signal.SIGTERM)")
    assert stopped.returncode == 143, stopped.stderr
    assert checkpoints.finished(tmp_path / "run") == [2, 4]
    assert train(config, tmp_path).returncode == 0
    assert records(tmp_path / "run") == whole


@pytest.mark.slow
def test_a_second_signal_ends_at_once(photos: Path, tmp_path: Path) -> None:
    twice = "[os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]; time.sleep(60)"
    stopped = train(configure(photos, tmp_path / "run"), tmp_path, 4, twice)
    assert stopped.returncode == -signal.SIGTERM
    assert checkpoints.finished(tmp_path / "run") == [2]


@pytest.mark.slow
def test_the_deadline_ends_an_iteration_that_hangs(photos: Path, tmp_path: Path) -> None:
    config = configure(photos, tmp_path / "run", "train.stop_deadline=0.5")
    stopped = train(config, tmp_path, 4, "os.kill(os.getpid(), signal.SIGUSR1); time.sleep(60)")
    assert stopped.returncode == 128 + signal.SIGUSR1
    assert "SIGUSR1: the iteration did not end within 0.5 s" in stopped.stderr
    assert checkpoints.finished(tmp_path / "run") == [2]


RANK = "int(os.environ['RANK'])"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sender", "action"),
    [
        ("Slurm, to one rank", f"{RANK} == 1 and os.kill(os.getpid(), signal.SIGUSR1)"),
        ("torchelastic", f"{RANK} == 0 and os.kill(os.getppid(), signal.SIGTERM); time.sleep(1)"),
    ],
)
def test_all_ranks_save_together(sender: str, action: str, photos: Path, tmp_path: Path) -> None:
    config = configure(photos, tmp_path / "run")
    OmegaConf.save(config, tmp_path / "config.yaml")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(at=4, action=action, config=str(tmp_path / "config.yaml")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    stopped = run([*launch, str(program)], timeout=180)
    assert stopped.returncode != 0
    done = checkpoints.finished(tmp_path / "run")
    assert done[0] == 2
    assert done[1] in (4, 5), stopped.stderr  # the agent forwards the signal after a moment
    assert stopped.stderr.count("run the same command again to resume from there") == 1


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with StopRequests(60.0) as requests:
        assert requests.agreed() == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert requests.agreed() == signal.SIGUSR1
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_another_thread_catches_nothing() -> None:
    caught = []

    def open_in_thread() -> None:
        with StopRequests(60.0) as requests:
            caught.append(requests.agreed())

    thread = threading.Thread(target=open_in_thread)
    thread.start()
    thread.join()
    assert caught == [0]
