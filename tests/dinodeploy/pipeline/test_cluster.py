"""`--cluster`: shards made by Ray's workers, dying ones too, are those that a single process makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from dinodeploy import Embedder, MisuseError, UnavailableError
from dinodeploy.pipeline.cluster import (
    ATTEMPTS,
    Job,
    ShardWorker,
    Share,
    count_workers,
    make_shards,
    merge_reports,
    parse_address,
)
from dinodeploy.pipeline.pipeline import RunReport
from dinodeploy.pipeline.stages import Stages
from dinodeploy.sources import FileSource, SourceOptions, open_source
from dinodeploy.store.writer import Store
from tests.support.fake_engine import tree
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine
from tests.support.stores import make_plan

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven images, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("cluster") / "photos"
    folder.mkdir()
    image = photograph("chelsea")
    for number in range(10):
        image.crop((0, 0, 64 + 7 * number, 48 + 3 * number)).save(folder / f"{number}.jpg")
    (folder / "3_broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.fixture
def job(photos: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Six shards of two, with relative paths, and the store begun."""
    monkeypatch.chdir(photos.parent)  # a worker changes its directory: this brings it back
    source = open_source(["photos"])
    assert isinstance(source, FileSource)
    with Embedder.open(tiny_bundle, device="cpu") as embedder:
        steps = embedder.preprocess_for(32)
        fingerprint = embedder.engine.fingerprint(steps)
    plan = make_plan(source.ids, fingerprint=fingerprint, batch=2, identity="stat")
    with Store(tmp_path / "out", plan):
        pass
    return Job(
        folder=photos.parent,
        images=("photos",),
        source_options=SourceOptions(),
        listed=source,
        engine=tiny_bundle,
        out=tmp_path / "out",
        plan=plan,
        preprocess=steps,
        batch=None,
        decoders=1,
        time_limit=60.0,
        engine_options={"device": "cpu", "threads": 1, "outputs": ("cls",)},
    )


def complete(job: Job) -> dict[str, bytes]:
    with Store(job.out, job.plan) as store:
        assert store.remaining == []
        store.finish()
    return tree(job.out)


def alone(photos: Path, bundle: Path, out: Path, run: CommandLine) -> dict[str, bytes]:
    options = ("--imgsz", 32, "--shard-size", 2, "--batch", 2, "--out", out)
    assert run("embed", "photos", "--engine", bundle, *options).code == 5
    return tree(out)


# ---- one worker ------------------------------------------------------------------------------------


def test_workers_make_what_one_process_makes(
    job: Job,
    photos: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    run: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = alone(photos, tiny_bundle, tmp_path / "alone", run)
    monkeypatch.chdir("/")  # a worker starts anywhere
    workers = [ShardWorker(job), ShardWorker(replace(job, listed=None))]
    reports = [workers[index % 2].make(index) for index in (5, 0, 3, 1, 4, 2)]
    again = workers[0].make(2)
    assert again.kept == 2, "a worker killed before it could say so has made it all the same"
    assert complete(job) == expected
    merged = merge_reports(reports, 0, 0, 2.0)
    assert (merged.embedded, merged.quarantined, merged.images) == (10, 1, 11)
    assert merged.stages.total == pytest.approx(sum(report.stages.total for report in reports))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": Path("/does/not/exist")}, "does not see the folder /does/not/exist"),
        ({"out": Path("/tmp/none/of/ours")}, "does not see the store /tmp/none/of/ours"),
        ({"listed": FileSource(["photos/0.jpg"])}, "does not see the same images"),
    ],
)
def test_a_machine_that_sees_something_else_makes_nothing(
    job: Job, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnavailableError, match=message):
        ShardWorker(replace(job, **change)).make(0)
    assert not list(job.out.glob(".embed/shards/*"))
    assert not Path("/tmp/none").exists()


def test_another_engine_makes_nothing(job: Job) -> None:
    """As where --device auto finds a GPU on one machine alone."""
    plan = replace(job.plan, fingerprint={**job.plan.fingerprint, "engine_sha256": "0" * 64})
    with Store(job.out, plan, overwrite=True):
        pass
    with pytest.raises(UnavailableError, match="wanted the engine that the store was started with"):
        ShardWorker(replace(job, plan=plan)).make(0)


def test_a_store_that_vanishes_is_noticed(job: Job) -> None:
    worker = ShardWorker(job)
    worker.make(0)
    (job.out / ".embed" / "plan.json").unlink()
    with pytest.raises(UnavailableError, match="does not see the store"):
        worker.make(1)


# ---- who does what ---------------------------------------------------------------------------------


class TaskFailed(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a traceback")
        self.cause = cause


class FakeRay:
    """Runs tasks when they are waited for; `fails(index)` may say how one ends instead."""

    exceptions = SimpleNamespace(RayTaskError=TaskFailed, RayError=ConnectionError)

    def __init__(self, fails: Callable[[int], Exception | None] = lambda index: None) -> None:
        self.fails = fails
        self.workers = self.killed = 0
        self.order: list[int] = []

    def remote(self, **options: Any) -> Any:
        return lambda cls: SimpleNamespace(remote=self.start)

    def start(self, job: Any) -> Any:
        self.workers += 1
        return SimpleNamespace(make=SimpleNamespace(remote=lambda index: (self.workers, index)))

    def kill(self, actor: Any) -> None:
        self.killed += 1

    def put(self, value: Any) -> Any:
        return value

    def wait(self, refs: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return refs[:1], refs[1:]

    def get(self, ref: Any) -> RunReport:
        index = ref[1]
        self.order.append(index)
        if (error := self.fails(index)) is not None:
            raise error
        return RunReport(2, 1, 0, 0, 1.0, Stages())


def shards(ray: FakeRay, count: int = 5, workers: int = 2) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    make_shards(
        ray,
        None,
        list(range(count)),
        Share(),
        workers,
        lambda done, failed, _: told.append((done, failed)),  # type: ignore[arg-type]
    )
    return told


def test_every_shard_is_made_once_in_order() -> None:
    ray = FakeRay()
    assert shards(ray) == [(2, 1), (4, 2), (6, 3), (8, 4), (10, 5)]
    assert (ray.order, ray.workers) == ([0, 1, 2, 3, 4], 2)
    assert shards(FakeRay(), count=0) == []


def test_no_more_workers_than_shards() -> None:
    ray = FakeRay()
    shards(ray, count=1, workers=64)
    assert ray.workers == 1


def test_a_shard_whose_worker_dies_is_made_again_first() -> None:
    deaths = [ConnectionError("killed")] * (ATTEMPTS - 1)
    ray = FakeRay(lambda index: deaths.pop() if index == 1 and deaths else None)
    assert shards(ray)[-1] == (10, 5)
    assert sorted(ray.order) == [0, 1, 1, 1, 1, 2, 3, 4]
    assert ray.order.index(4) > ray.order.index(1)
    assert (ray.workers, ray.killed) == (2 + 3, 3), "each is replaced"


def test_a_shard_that_kills_every_worker_ends_the_run() -> None:
    ray = FakeRay(lambda index: ConnectionError("out of memory") if index == 2 else None)
    with pytest.raises(UnavailableError, match="shard 2: 4 workers died on it, the last with: out of memory"):
        shards(ray)


def test_what_a_worker_raises_is_raised() -> None:
    with pytest.raises(UnavailableError, match="no disk"):
        shards(FakeRay(lambda index: TaskFailed(UnavailableError("no disk"))))
    with pytest.raises(TaskFailed):  # a bug: the traceback is the message
        shards(FakeRay(lambda index: TaskFailed(KeyError("x"))))


def test_workers_are_counted_machine_by_machine() -> None:
    machines = [{"CPU": 7.0, "GPU": 1.0}, {"CPU": 3.0}, {"CPU": 16.0, "GPU": 4.0}]
    nodes = [{"Alive": True, "Resources": resources} for resources in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 99.0}})
    ray = SimpleNamespace(nodes=lambda: nodes)
    assert count_workers(ray, Share(cpus=4)) == 1 + 0 + 4
    assert count_workers(ray, Share(cpus=2, gpus=1)) == 1 + 4
    with pytest.raises(UnavailableError, match="no machine of the cluster has the 32 CPUs"):
        count_workers(ray, Share(cpus=32))


@pytest.mark.parametrize("text", ["", "ray://", "somewhere", "http://host"])
def test_addresses_that_mean_nothing(text: str) -> None:
    with pytest.raises(MisuseError, match="wanted local, auto, or the address of a Ray"):
        parse_address(text)
    assert parse_address("ray://head:10001") == "ray://head:10001"


# ---- the command -----------------------------------------------------------------------------------


def test_a_cluster_and_parts_exclude_each_other(photos: Path, tiny_bundle: Path, run: CommandLine) -> None:
    ran = run("embed", photos, "--engine", tiny_bundle, "--cluster", "local", "--shards", "1/2")
    assert ran.code == 2
    assert "cluster and shards exclude each other" in ran.error


def test_without_ray_nothing_is_begun(
    photos: Path, tiny_bundle: Path, tmp_path: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = run("embed", photos, "--engine", tiny_bundle, "--out", tmp_path / "out", "--cluster", "local")
    assert ran.code == 4
    assert "pip install 'dinodeploy[ray]'" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(
    photos: Path, tiny_bundle: Path, tmp_path: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real Ray with two workers, one of which is killed with -9 over a shard."""
    pytest.importorskip("ray", reason="needs the ray extra")
    monkeypatch.chdir(photos.parent)
    expected = alone(photos, tiny_bundle, tmp_path / "alone", run)
    out = tmp_path / "out"
    program = "import os; os.cpu_count = lambda: 2; from dinodeploy.cli.app import main; main()"
    options = ["--imgsz", "32", "--shard-size", "2", "--batch", "2", "--cluster", "local", "--json"]
    options += ["--engine", str(tiny_bundle), "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", program, "embed", "photos", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        killed = kill_a_worker(process, out)
        printed, said = process.communicate(timeout=180)
    assert process.returncode == 5, said
    assert killed
    assert json.loads(printed)["embedded"] == 10, "stdout holds the result and nothing else"
    assert "Traceback" not in said
    assert tree(out) == expected


def kill_a_worker(process: subprocess.Popen[str], out: Path) -> int:
    """Kill the first process that locks an unfinished shard; returns its process id."""
    deadline = time.monotonic() + 150
    while process.poll() is None and time.monotonic() < deadline:
        for path in out.glob(".embed/part-*"):
            try:
                pid = int(json.loads(path.read_text())["pid"])
            except (OSError, ValueError):  # not signed yet
                continue
            if pid != process.pid and psutil.pid_exists(pid) and path.name != "part-1-of-1":
                os.kill(pid, signal.SIGKILL)
                return pid
        time.sleep(0.001)
    return 0
