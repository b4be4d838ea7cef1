"""The judge: is this engine the model? One place, numpy only (docs/architecture.md).

Given golden cases and something that preprocesses and runs, it measures token by token and holds every
number against one table of thresholds per recipe. A single figure over all tokens hides failures: a
wrong storage token drowns among a thousand patches, and a cosine does not see a doubled output.

Shapes: B batch, R storage tokens, h w patch grid, P = h*w patches, D embed_dim, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import ByteArray, FloatArray
from dinodeploy.bundle.bundle import GOLDEN_FILE, EngineChoice
from dinodeploy.bundle.manifest import HeadFacts, Manifest
from dinodeploy.errors import MisuseError, OutsideProfileError
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase, at_size, fitting_cases, load_golden
from dinodeploy.parity.measurement import Measurement, Verdict
from dinodeploy.parity.tasks import measure_of, replaced
from dinodeploy.parity.thresholds import HEAD_THRESHOLDS, PIXEL_THRESHOLDS, THRESHOLDS, Threshold

Outputs = Mapping[str, FloatArray]
Run = Callable[[FloatArray], Outputs]  # pixels [B,3,H,W] -> outputs by name
Prepare = Callable[[ByteArray, tuple[int, int]], FloatArray]  # image [h,w,3], (H, W) -> pixels [3,H,W]


VECTORS = ("cls", "image_embedding")  # whose nearest neighbours are compared: the first there is
TIE = 0.1  # of the logits' size: classes that the reference rates so close to its best count as agreeing


def judge(
    cases: Sequence[GoldenCase],
    prepare: Prepare,
    run: Run,
    preprocess: Preprocess,
    recipe: str,
    head: HeadFacts | None = None,
    head_precision: str = "fp32",
) -> Verdict:
    """Compare `prepare` and `run` with the golden cases under `recipe`'s thresholds.

    `head`: what its outputs are; a whole model may have no others. `head_precision`: of its layers.

    Raises MisuseError for a recipe without a row in the table; whatever `run` raises passes through.
    """
    if recipe not in THRESHOLDS:
        raise MisuseError(f"no thresholds for recipe {recipe!r}; known: {', '.join(THRESHOLDS)}")
    head_limits = HEAD_THRESHOLDS[head_precision if recipe == "fp32" else recipe]
    of_head = head.outputs if head is not None else ()
    own = measure_of(head)
    found: list[Measurement] = []
    pairs: list[tuple[FloatArray, FloatArray]] = []
    logits: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
    for case in cases:
        found += _judge_pixels(case, prepare, preprocess)
        outputs = run(case.pixels)
        for name, wanted in case.outputs.items():
            got = outputs.get(name)
            metrics: Callable[[FloatArray, FloatArray], dict[str, float]]
            if name not in of_head:
                metrics, limits = partial(measure, name), THRESHOLDS[recipe]
            elif head is not None and name in replaced(head):
                metrics, limits = _no_metrics, ()
            else:
                classes = head is not None and head.scores_classes
                metrics, limits = partial(measure_head, classes=classes), head_limits
                if head is not None and head.multi_label and _comparable(got, wanted):
                    cut = np.asarray(head.settings["thresholds"])
                    sides = (_by_threshold(outputs[name], cut), _by_threshold(wanted, cut))
                    logits.setdefault(name, []).append(sides)
                elif classes and _comparable(got, wanted):
                    logits.setdefault(name, []).append((_by_place(outputs[name]), _by_place(wanted)))
            found += _judge_output(case.name, name, got, wanted, metrics, limits)
        if head is not None and own is not None and _all_comparable(outputs, case, of_head):
            for name, values in own.measure(outputs, case.outputs, head).items():
                found += _hold(case.name, name, values, own.limits(recipe, head, head_precision))
        vector = next((name for name in VECTORS if name in case.outputs), "")
        if vector and _comparable(outputs.get(vector), case.outputs[vector]):
            pairs.append((outputs[vector], case.outputs[vector]))
    if pairs:
        got, wanted = (np.concatenate(side) for side in zip(*pairs, strict=True))
        agreement = knn_agreement(got, wanted, k=1)
        found += _hold("all", vector, {"nearest_neighbour": agreement}, THRESHOLDS[recipe])
    for name, places in logits.items():
        got, wanted = (np.concatenate(side) for side in zip(*places, strict=True))
        values = {"class_agreement": class_agreement(got, wanted)}
        found += _hold("all", name, values, head_limits)
    return Verdict(recipe, tuple(found))


def _judge_pixels(case: GoldenCase, prepare: Prepare, preprocess: Preprocess) -> list[Measurement]:
    """Our preprocessing of the photographs against the reference's, in grey levels."""
    std = np.array(preprocess.std, np.float32)[:, None, None] * 255
    values = {"pixel_max": 0.0, "pixel_p9999": 0.0, "pixel_mean": 0.0}
    for image, wanted in zip(case.images, case.pixels, strict=True):
        got = prepare(image, case.size)
        if got.shape != wanted.shape:
            return [_unmeasured(case.name, "pixels", "shape", f"got {got.shape}, wanted {wanted.shape}")]
        difference = np.abs(got - wanted) * std
        found = (difference.max(), np.percentile(difference, 99.99), difference.mean())
        values = {name: max(values[name], float(value)) for name, value in zip(values, found, strict=True)}
    return list(_hold(case.name, "pixels", values, PIXEL_THRESHOLDS))


def _judge_output(
    case: str,
    name: str,
    got: FloatArray | None,
    wanted: FloatArray,
    metrics: Callable[[FloatArray, FloatArray], dict[str, float]],
    thresholds: Sequence[Threshold],
) -> list[Measurement]:
    if got is None:
        return [_unmeasured(case, name, "present", "the engine has no such output")]
    if got.shape != wanted.shape:
        return [_unmeasured(case, name, "shape", f"got {got.shape}, wanted {wanted.shape}")]
    if not np.isfinite(got).all():
        bad = int(got.size - np.isfinite(got).sum())
        return [_unmeasured(case, name, "finite", f"{bad} of {got.size} values are NaN or infinite")]
    return list(_hold(case, name, metrics(got, wanted), thresholds))


def measure(name: str, got: FloatArray, wanted: FloatArray) -> dict[str, float]:
    """Metrics of one output: cls [B,D], storage or extra [B,R,D], a patch map [B,h,w,D], attention [B,n,h,w].

    cosine: smallest over the tokens (over the mean patches for a map). patch_cosine_p01: first percentile
    over patches; of attention, where a head's map is what points somewhere, over heads.
    relative_frobenius: ‖got - wanted‖ / ‖wanted‖. max_abs: largest difference.
    """
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    if name == "attention":  # a map a head, of numbers that belong together
        got, wanted = (maps.reshape(*maps.shape[:2], -1) for maps in (got, wanted))
    difference = got - wanted
    metrics = {
        "relative_frobenius": _ratio(float(np.linalg.norm(difference)), float(np.linalg.norm(wanted))),
        "max_abs": float(np.abs(difference).max(initial=0.0)),
    }
    if name == "attention":
        metrics["patch_cosine_p01"] = float(np.percentile(cosine(got, wanted), 1))
    elif got.ndim == 4:
        metrics["cosine"] = float(cosine(got.mean(axis=(1, 2)), wanted.mean(axis=(1, 2))).min())
        metrics["patch_cosine_p01"] = float(np.percentile(cosine(got, wanted), 1))
    else:
        metrics["cosine"] = float(cosine(got, wanted).min())
    return metrics


def measure_head(got: FloatArray, wanted: FloatArray, classes: bool) -> dict[str, float]:
    """Metrics of a head's output of any shape; with `classes`, logits [B,K] or [B,K,h,w].

    head_error: ‖got - wanted‖ / ‖wanted‖; of logits their mean over the classes, which decides nothing, is
    taken off first. max_abs: largest difference.
    """
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    largest = float(np.abs(got - wanted).max(initial=0.0))
    if classes and wanted.shape[1] > 1:
        got, wanted = (side - side.mean(axis=1, keepdims=True) for side in (got, wanted))
    error = _ratio(float(np.linalg.norm(got - wanted)), float(np.linalg.norm(wanted)))
    return {"head_error": error, "max_abs": largest}


def _no_metrics(got: FloatArray, wanted: FloatArray) -> dict[str, float]:
    """For an output that its task's own measure compares (`tasks.py`)."""
    return {}


def _all_comparable(outputs: Outputs, case: GoldenCase, names: Sequence[str]) -> bool:
    """Whether every output of a head can be compared with the reference's."""
    return all(name in case.outputs and _comparable(outputs.get(name), case.outputs[name]) for name in names)


def class_agreement(got: FloatArray, wanted: FloatArray) -> float:
    """Share of places [N,K] whose best class is the reference's, or one that all but ties with it."""
    size = np.sqrt(np.square(wanted - wanted.mean(axis=1, keepdims=True)).mean())
    chosen = np.take_along_axis(wanted, got.argmax(axis=1, keepdims=True), axis=1)
    return float((wanted.max(axis=1, keepdims=True) - chosen <= TIE * size).mean())


def _by_place(logits: FloatArray) -> FloatArray:
    """[B,K] as it is, [B,K,h,w] -> [Bhw,K]."""
    return np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])


def _by_threshold(logits: FloatArray, thresholds: FloatArray) -> FloatArray:
    """[B,K] of several classes per image -> [BK,2]: 0, and how far a logit is above its limit."""
    above = logits - np.log(thresholds / (1 - thresholds))
    return np.stack([np.zeros(above.size), above.ravel()], axis=1)


def _ratio(error: float, size: float) -> float:
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """Cosine along the last axis; 0 where either vector is zero."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = (a * b).sum(axis=-1)
    return np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)


def unit_rows(rows: FloatArray) -> FloatArray:
    """Each vector (the last axis) divided by its length; a vector of zeros stays."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def knn_agreement(got: FloatArray, wanted: FloatArray, k: int) -> float:
    """Share of the k nearest neighbours (by cosine, self excluded) that two embeddings [N,D] agree on.

    1.0 when there are too few rows to have k neighbours.
    """
    if len(got) <= k:
        return 1.0
    neighbours = []
    for rows in (got, wanted):
        similarity = (unit := unit_rows(rows)) @ unit.T
        np.fill_diagonal(similarity, -np.inf)
        neighbours.append(np.argsort(-similarity, axis=1, kind="stable")[:, :k])
    shared = [len(set(a) & set(b)) for a, b in zip(*neighbours, strict=True)]
    return sum(shared) / (k * len(got))


def _comparable(got: FloatArray | None, wanted: FloatArray) -> bool:
    return got is not None and got.shape == wanted.shape and bool(np.isfinite(got).all())


def _hold(
    case: str, output: str, values: Mapping[str, float], thresholds: Sequence[Threshold]
) -> Iterator[Measurement]:
    limits = {threshold.metric: threshold for threshold in thresholds}
    for metric, value in values.items():
        threshold = limits.get(metric)
        passed = threshold is None or threshold.holds(value)
        shown = value if np.isfinite(value) else None
        yield Measurement(case, output, metric, shown, threshold.limit if threshold else None, passed)


def _unmeasured(case: str, output: str, metric: str, note: str) -> Measurement:
    return Measurement(case, output, metric, None, None, False, note)


def judge_golden(cases: Sequence[GoldenCase], run: Run, manifest: Manifest) -> Verdict:
    """Judge `run` on golden cases, with the manifest's preprocessing and recipe."""
    return judge(
        cases,
        prepare=lambda image, size: _prepared(at_size(manifest.preprocess, size), image),
        run=lambda pixels: run(manifest.preprocess.for_engine(pixels)),
        preprocess=manifest.preprocess,
        recipe=manifest.graph.recipe,
        head=manifest.head,
        head_precision=manifest.graph.head_precision,
    )


def _prepared(steps: Preprocess, image: ByteArray) -> FloatArray:
    """Our preprocessing of a photograph, as normalised pixels [3,H,W] whatever the engine takes."""
    return steps.normalised(steps(open_image(image)))


def judge_engine(
    engine: EngineChoice, run: Run, takes: Callable[[int, int], bool]
) -> tuple[Verdict, tuple[str, ...]]:
    """Judge an opened engine on its bundle's golden cases; also the sizes that were left out.

    Those are of cases that it was not built for, by `takes`. Raises OutsideProfileError if no case is left.
    """
    cases = [case.only(engine.outputs) for case in load_golden(engine.bundle.root / GOLDEN_FILE)]
    fitting, left_out = fitting_cases(cases, takes)
    if not fitting:
        raise OutsideProfileError(
            f"{engine.named} takes none of the sizes it could be judged at, {', '.join(left_out)}; "
            f"build it for at least one of them: dinodeploy build {engine.bundle.named} --imgsz …"
        )
    return judge_golden(fitting, run, engine.manifest), left_out


def rejection(engine: EngineChoice, verdict: Verdict) -> str:
    """One line on why an engine may not be used."""
    first = verdict.failures[0]
    detail = first.note or f"{first.metric} is {first.value:.3g}, wanted {first.limit:.3g}"
    more = len(verdict.failures) - 1
    return (
        f"{engine.named} is not the model here: {first.output} of case {first.case!r}: {detail}"
        + (f" (and {more} more)" if more else "")
        + f"; see: dinodeploy check {engine.bundle.named}"
    )
