"""`train-head --lora` and `--unfreeze`: train the backbone too, with `dinov3_ref.adapt`, which needs torch.

    verify, split ─> datasets ─> FineTuneRun (OUT/run, resumes) ─> score the test part ─> OUT

Images to score go through the preprocessing of the bundle that is exported later, so its predictions have the
scores that are printed here.

Shapes: N images, K classes or values, H W input in pixels.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, IndexArray
from dinodeploy.bundle.manifest import canonical
from dinodeploy.errors import MisuseError, OutputExistsError
from dinodeploy.files.json_file import parse_json
from dinodeploy.hardware.packages import reach
from dinodeploy.heads.fit import intersection_over_union, summary
from dinodeploy.heads.labelled import Split, read_classified, read_mask, read_segmented
from dinodeploy.heads.tables import read_table
from dinodeploy.heads.train import LICENCE, TRAINED_TASKS
from dinodeploy.heads.verified import Verified, split_by_content, verify
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.dense import IGNORE, place_mask

Log = Callable[[str], None]
PURPOSE, EXTRA = "training the backbone (--lora, --unfreeze)", "train"
PRESET = "official"  # preprocessing of `dinodeploy export` by default
RUN, RESULT = "run", "config.json"  # in OUT: the state of the training; written last


@dataclass(frozen=True)
class FineTuneJob:
    """What to train on which images. One of `lora` (rank) and `unfreeze` (last blocks) is given.

    weights: a checkpoint's file or folder, or "hub" with `arch`. size: (H, W) of the input, by default the
    preset's. settings: `name=value` words of `dinov3_ref.adapt.options`.
    """

    task: str
    data: Path
    out: Path
    weights: str
    arch: str | None = None
    lora: int | None = None
    unfreeze: int | None = None
    test: Path | None = None
    size: tuple[int, int] | None = None
    pooling: str = "cls_mean"
    balanced: bool = True
    seed: int = 0
    device: str | None = None  # None: a GPU if there is one
    settings: tuple[str, ...] = ()
    overwrite: bool = False


@dataclass(frozen=True)
class Labels:
    """Readable images and their targets: class numbers [N], rows [N,K], or mask files."""

    ids: tuple[str, ...]
    targets: IndexArray | AnyArray | tuple[Path, ...]
    names: tuple[str, ...]
    digests: tuple[str, ...]
    pixels: tuple[IndexArray, ...] = ()
    quarantined: tuple[tuple[str, str], ...] = ()

    def target(self, row: int) -> Any:
        """A class number, a row, or the class ids of a mask."""
        found = self.targets[row]
        return read_mask(found) if isinstance(found, Path) else found

    def at(self, rows: IndexArray) -> tuple[list[str], list[Any]]:
        """Ids and targets (not read) of some rows."""
        return [self.ids[row] for row in rows], [self.targets[row] for row in rows]


class TrainingImages:
    """(RGB image, target), for the augmentations."""

    def __init__(self, labels: Labels, rows: IndexArray) -> None:
        self.labels, self.rows = labels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = int(self.rows[index])
        return open_image(self.labels.ids[row]), self.labels.target(row)


class ScoredImages(TrainingImages):
    """(float32 pixels [3,H,W], target), as the engine sees them."""

    def __init__(self, labels: Labels, rows: IndexArray, preprocess: Preprocess) -> None:
        super().__init__(labels, rows)
        self.preprocess = preprocess

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = super().__getitem__(index)
        dense = isinstance(target, np.ndarray) and target.ndim == 2
        return self.preprocess(image), place_mask(target, self.preprocess) if dense else target


@dataclass(frozen=True)
class FineTuned:
    """What was trained: its report as JSON holds it, and the images that could not be used: (id, reason)."""

    report: dict[str, Any]
    quarantined: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())


def fine_tune(job: FineTuneJob, log: Log = lambda _: None) -> FineTuned:
    """Train, score the test images, and write the model to `job.out`. Resumes an interrupted training.

    Raises MisuseError for data or options that do not fit, OutputExistsError for an output that is complete,
    UnavailableError without torch; and what `dinov3_ref` raises, whose errors have an exit code too.
    """
    adapt = reach("dinov3_ref.adapt.run", PURPOSE, EXTRA)
    options = _options(job)
    check_output(job.out, job.overwrite)
    checkpoint = load_base(job)
    mean, std = reach("dinov3_ref.checkpoints", PURPOSE).normalization(checkpoint)
    stride = checkpoint.config.stride
    preprocess = Preprocess.from_preset(PRESET, job.size, mean, std, stride)
    options = options(height=preprocess.height, width=preprocess.width)
    log(f"reading the images of {job.data}")
    labels = read_labels(job.task, job.data)
    tests = read_labels(job.task, job.test, labels.names) if job.test is not None else None
    split = split_by_content(
        labels.digests,
        job.seed,
        labels=np.asarray(labels.targets) if job.task == "classify" else None,
        test=tests is None,
    )
    set_up = reach("dinov3_ref.adapt.set_up", PURPOSE)
    facts = set_up.Facts(**facts_of(labels, split, job.task))
    head, objective = set_up.set_up(checkpoint, labels.names, options, facts)
    device = reach("dinov3_ref.eval.features", PURPOSE).choose_device(job.device)
    validation = ScoredImages(labels, split.validation, preprocess)
    log(f"training on {device}: {len(split.train)} images, {len(split.validation)} to validate")
    run = adapt.FineTuneRun(
        checkpoint,
        head,
        objective,
        options,
        TrainingImages(labels, split.train),
        validation,
        job.out / RUN,
        device,
        {"data": identity(labels)},
    )
    run.train()
    return _finish(job, run, checkpoint, labels, tests, split, preprocess)


def _finish(
    job: FineTuneJob,
    run: Any,
    checkpoint: Any,
    labels: Labels,
    tests: Labels | None,
    split: Split,
    preprocess: Preprocess,
) -> FineTuned:
    """Score the best weights on the test images and write the model."""
    adapt, networks, options, device = (
        reach("dinov3_ref.adapt.run", PURPOSE),
        run.arch,
        run.options,
        run.device,
    )
    if job.task == "multilabel":
        both = adapt.score(networks, run.validation, options, device).both()
        found = reach("dinov3_ref.adapt.objectives", PURPOSE).best_thresholds(*both)
        with_thresholds = reach("dinov3_ref.adapt.set_up", PURPOSE).with_thresholds
        networks.student["head"] = with_thresholds(networks.head, found)
    scored = tests or labels
    rows = split.test if tests is None else np.arange(len(scored.ids))
    tally = adapt.score(networks, ScoredImages(scored, rows, preprocess), options, device)
    counts = {"train": len(split.train), "validation": len(split.validation), "test": len(rows)}
    report = {
        "task": job.task,
        "classes": list(labels.names),
        "pictures": counts,
        **scores_of(tally, job.task),
        "epochs": (run.evaluation.best_iteration + 1) // run.evaluation.period,
        "validation": run.evaluation.best,
        "metric": networks.objective.metric,
        "size": [preprocess.height, preprocess.width],
        "base": checkpoint.source,
    }
    kept = {key: value for key, value in report.items() if key not in ("confusion", "classes", "iou")}
    trained = parse_json(canonical(kept), "the report", "small")
    reach("dinov3_ref.adapt.result", PURPOSE).write_result(networks, checkpoint, job.out, trained, LICENCE)
    for name in ("ckpt", *(path.name for path in (job.out / RUN).glob("best-*.safetensors"))):
        path = job.out / RUN / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    quarantined = (*labels.quarantined, *(tests.quarantined if tests is not None else ()))
    return FineTuned(report, quarantined, tuple(checkpoint.notes))


def _options(job: FineTuneJob) -> Callable[..., Any]:
    """The options of the training, checked; called with the size of the input, `FineTuneOptions`."""
    module = reach("dinov3_ref.adapt.options", PURPOSE, EXTRA)

    def made(height: int, width: int) -> Any:
        given = module.FineTuneOptions(
            task=job.task,
            height=height,
            width=width,
            lora=job.lora,
            unfreeze=job.unfreeze,
            pooling=job.pooling,
            balanced=job.balanced,
            seed=job.seed,
        )
        return module.with_settings(given, job.settings)

    made(1, 1)  # an error before the data is read
    return made


def check_output(out: Path, overwrite: bool) -> None:
    """Make the folder, or find one with an interrupted training. Raises OutputExistsError, MisuseError."""
    if out.suffix in (".safetensors", ".pth", ".pt"):
        raise MisuseError(f"--out {out}: the model is written as a folder; wanted a name without a suffix")
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out} is a file; choose another --out")
    started = (out / RUN / "options.json").is_file()
    if out.is_dir() and any(out.iterdir()) and not started:
        raise OutputExistsError(f"{out} is not empty and holds no training; choose another --out")
    if (out / RESULT).is_file() and not overwrite:
        raise OutputExistsError(f"{out} holds a complete model; give --overwrite or another --out")
    if started and overwrite:
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def load_base(job: FineTuneJob) -> Any:
    """The checkpoint of `job.weights`. Raises MisuseError for "hub" without `arch`."""
    checkpoints = reach("dinov3_ref.checkpoints", PURPOSE)
    if job.weights != "hub":
        return checkpoints.load_checkpoint(Path(job.weights), arch=job.arch)
    if job.arch is None:
        raise MisuseError("--weights hub: which model? give --arch, for instance vit_small")
    return checkpoints.load_checkpoint(checkpoints.fetch(job.arch), arch=job.arch)


def read_labels(task: str, folder: Path, names: tuple[str, ...] = ()) -> Labels:
    """The labelled images of a folder, checked. names: of the training data's classes, for a test set.

    Raises MisuseError.
    """
    if task == "classify":
        images = read_classified(folder, names)
        return _labels(verify(images.ids), images.ids, images.labels, images.classes)
    if task in TRAINED_TASKS:
        table = read_table(folder, task, names)
        return _labels(verify(table.ids), table.ids, table.values, table.names)
    if task != "segment":
        raise MisuseError(f"--task {task!r}; wanted classify, multilabel, segment or regress")
    pairs = read_segmented(folder)
    checked = verify(pairs.ids, pairs.masks)
    seen = np.flatnonzero(np.sum(checked.pixels, axis=0)[:IGNORE])
    classes = names or pairs.names or tuple(str(index) for index in range(int(seen.max(initial=0)) + 1))
    if len(seen) < 2 or int(seen.max()) >= len(classes):
        raise MisuseError(
            f"the masks hold the class ids {', '.join(map(str, seen[:9]))}; wanted two or more"
            f"{f', below {len(classes)}: classes.txt names so many' if pairs.names else ''}"
        )
    masks = tuple(pairs.masks[row] for row in checked.rows)
    return _labels(checked, pairs.ids, masks, classes)


def _labels(checked: Verified, ids: Sequence[str], targets: Any, names: tuple[str, ...]) -> Labels:
    kept = targets if isinstance(targets, tuple) else targets[checked.rows]
    readable = tuple(ids[row] for row in checked.rows)
    return Labels(readable, kept, names, checked.digests, checked.pixels, checked.quarantined)


def identity(labels: Labels) -> str:
    """A hash of all images and targets, in no order of files."""
    masks = [counts.tobytes() for counts in labels.pixels]
    targets = masks or [np.asarray(target).tobytes() for target in labels.targets]
    lines = sorted(f"{d} {t.hex()}" for d, t in zip(labels.digests, targets, strict=True))
    return hashlib.sha256("\n".join((*labels.names, *lines)).encode()).hexdigest()


def facts_of(labels: Labels, split: Split, task: str) -> Mapping[str, Any]:
    """What the losses need to know of the training targets: `dinov3_ref.adapt.set_up.Facts`."""
    rows = split.train
    if task == "segment":
        counts = np.sum([labels.pixels[row] for row in rows], axis=0)[: len(labels.names)]
        return {"counts": counts.tolist()}
    targets = np.asarray(labels.targets)[rows]
    if task == "classify":
        return {"counts": np.bincount(targets, minlength=len(labels.names)).tolist()}
    if task == "multilabel":
        return {"counts": targets.sum(axis=0).tolist(), "total": len(rows)}
    return {"mean": targets.mean(axis=0).tolist(), "std": targets.std(axis=0).tolist()}


def scores_of(tally: Any, task: str) -> dict[str, Any]:
    """The scores of a report: those of the frozen heads for classes, else the tally's own."""
    if task in TRAINED_TASKS:
        return dict(tally.scores())
    counts = tally.counts.numpy()
    if task == "classify":
        return summary(counts)
    each, mean = intersection_over_union(counts)
    return {**summary(counts), "mean_iou": mean, "iou": each}
