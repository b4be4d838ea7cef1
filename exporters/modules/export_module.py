"""Export any module that takes an image batch and has a DINOv3 backbone inside.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinodeploy.bundle.bundle import Bundle
from dinodeploy.bundle.manifest import WEIGHTS_LICENCE, HeadFacts
from dinodeploy.errors import ExportError, MisuseError, reason_of
from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.checkpoints import NORMALIZATION
from dinov3_ref.models import input_channels
from dinov3_ref.tasks.task_model import TASKS
from exporters.bundle.options import ExportOptions
from exporters.modules.backbones import swap
from exporters.modules.facts import arch_of, model_facts, sha256_of_tensors
from exporters.modules.outputs import ChosenOutputs, names_of
from exporters.modules.sizes import check_dynamic, find_sizes
from exporters.modules.whole import Log, backbones_of, refuse_bytes, stride_of_all, tensors_of
from exporters.modules.write import Job, write_whole

LVD, SAT = "lvd1689m", "sat493m"


def export_module(
    module: nn.Module,
    out: str | Path,
    *,
    outputs: Sequence[str] = (),
    recipe: str = "fp32",
    imgsz: int | tuple[int, int] | None = None,
    dynamic: Sequence[str] | None = None,
    preprocess: str | Preprocess | None = None,
    dataset: str | None = None,
    task: str = "custom",
    classes: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    head_precision: str = "fp32",
    source: str = "",
    options: ExportOptions | None = None,
    log: Log = lambda _: None,
) -> tuple[Bundle, tuple[str, ...]]:
    """Export `module`, which takes pixels [B,3,H,W], to a bundle judged against the module as it is, in fp32.

    outputs: names of the tensors that it returns, in order, or the keys of those wanted; default: all.
    recipe: of the backbones; head_precision: fp32 or fp16, of all other layers.
    imgsz: usual input size, H or (H, W). dynamic: which of batch, height and width are free; default: all
        that the module allows, with a note on the others. ("batch",) fixes the size at imgsz.
    preprocess: a preset, or a `Preprocess` with a mean and std of its own; dataset: lvd1689m (ImageNet's mean
        and std, the default) or sat493m.
    task, classes, settings: what `dinodeploy predict` does with the outputs: classify, segment, depth …
    source: where the module came from, for the manifest. options: everything else, as in an export.

    The module is not changed. Returns the bundle with its receipt, and notes. Raises MisuseError for options
    that do not fit, ExportError or LintError when no proper graph comes out, JudgementError when it is not
    the module. Then nothing is left.
    """
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    options = options or ExportOptions(recipe=recipe, head_precision=head_precision, imgsz=size)
    refuse_bytes(options)
    fixed = check_dynamic(dynamic)
    if dataset is not None and dataset not in NORMALIZATION:
        raise MisuseError(f"--dataset {dataset!r} is unknown; known: {', '.join(NORMALIZATION)}")
    if task not in TASKS:
        raise MisuseError(f"task is {task!r}; wanted one of {', '.join(TASKS)}")
    with _as_reference(module) as reference:
        copied, found = swap(reference)
        backbones = backbones_of(copied)
        first, channels = next(iter(backbones.values())), input_channels(next(iter(backbones.values())))
        stride = stride_of_all(list(backbones.values()))
        steps = _steps(preprocess, options, dataset, stride)
        sizes = find_sizes(reference, steps, channels, fixed, allowed=dynamic is None)
        names, chosen = _outputs(reference, outputs, channels, sizes.preprocess)
        kind, digest = type(module).__name__, sha256_of_tensors(reference)
        head = HeadFacts(
            task=task,  # type: ignore[arg-type]
            kind=kind,
            inputs=(),
            outputs=names,
            classes=tuple(classes),
            source=source or kind,
            sha256=digest,
            licence="not stated",
            settings=dict(settings or {}),
        )
        facts = model_facts(
            first, arch_of(first), "memory", source or kind, digest, found[0].library, dataset
        )
        job = Job(
            module=copied,
            reference=reference,
            wrap=partial(ChosenOutputs, names=names, chosen=chosen),
            names=names,
            facts=facts,
            head=head,
            sizes=sizes,
            licence=WEIGHTS_LICENCE,
        )
        bundle, notes = write_whole(job, Path(out), options, log, allowed=dynamic is None)
    inside = ", ".join(f"{one.path or 'the module'} ({one.name} of {one.library})" for one in found)
    assumed = "input mean and std are ImageNet's; else give --dataset sat493m"
    told = isinstance(preprocess, Preprocess) or dataset is not None
    return bundle, (f"backbone: {inside}", *(() if told else (assumed,)), *notes)


def _steps(
    preprocess: str | Preprocess | None, options: ExportOptions, dataset: str | None, stride: int
) -> Preprocess:
    if isinstance(preprocess, Preprocess):
        height, width = options.imgsz or (preprocess.height, preprocess.width)
        made = preprocess.with_size(height, width)
        return made if made.patch_size % stride == 0 else _of_stride(made, stride)
    mean, std = NORMALIZATION[dataset or LVD]
    return Preprocess.from_preset(
        preprocess or options.preset or "official", options.imgsz, mean, std, stride
    )


def _of_stride(steps: Preprocess, stride: int) -> Preprocess:
    return Preprocess(steps.preset, steps.height, steps.width, steps.mean, steps.std, stride)


def _outputs(
    module: nn.Module, asked: Sequence[str], channels: int, steps: Preprocess
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    with torch.inference_mode():
        made = module(torch.zeros(1, channels, steps.height, steps.width))
    names, chosen = names_of(made, asked)
    for name, tensor in zip(names, ChosenOutputs(_Given(made), names, chosen)(None), strict=True):
        if tensor.dim() < 1 or tensor.shape[0] != 1:
            raise ExportError(
                f"output {name!r} is {list(tensor.shape)} for one image; wanted the batch first, [1, …]"
            )
    return names, chosen


class _Given(nn.Module):
    """Returns what has been computed."""

    def __init__(self, made: Any) -> None:
        super().__init__()
        self._made = (made,)

    def forward(self, _: Any) -> Any:
        return self._made[0]


@contextmanager
def _as_reference(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode, in fp32 on the CPU: itself where it is, else a copy. Its modes come back."""
    floats = [tensor for tensor in tensors_of(module).values() if tensor.is_floating_point()]
    as_is = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in floats)
    modes = {part: part.training for part in module.modules()}
    try:
        yield module.eval() if as_is else copy.deepcopy(module).to("cpu", torch.float32).eval()
    finally:
        for part, training in modes.items():
            part.training = training


def module_from_factory(text: str) -> nn.Module:
    """The module that `package.file:factory` makes: a function without arguments, or a module itself.

    This runs the user's own code. Raises MisuseError.
    """
    name, _, attribute = text.partition(":")
    if not name or not attribute:
        raise MisuseError(f"--module {text!r}; wanted package.file:factory, for instance my_models.net:build")
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise MisuseError(f"--module {text!r} names a file; wanted the module's name: {dotted}:{attribute}")
    sys.path.insert(0, "")  # as python -m does: modules beside the user
    try:
        factory: Any = importlib.import_module(name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        made = factory() if not isinstance(factory, nn.Module) else factory
    except Exception as error:  # the user's own code
        raise MisuseError(
            f"--module {text}: {type(error).__name__}: {reason_of(error)}; wanted a function without "
            "arguments that returns the module"
        ) from error
    finally:
        sys.path.remove("")
    if not isinstance(made, nn.Module):
        raise MisuseError(f"--module {text} gave a {type(made).__name__}; wanted a torch.nn.Module")
    return made
