"""Export a whole model that `dinov3_ref.tasks` knows to a judged bundle; otherwise leave nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dinodeploy.bundle.bundle import Bundle
from dinodeploy.bundle.manifest import WEIGHTS_LICENCE, HeadFacts
from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.models import stride_of
from dinov3_ref.tasks import LoadedTask
from exporters.bundle.options import ExportOptions
from exporters.modules.facts import model_facts
from exporters.modules.sizes import Sizes
from exporters.modules.whole import Log, NamedOutputs, refuse_bytes
from exporters.modules.write import Job, write_whole


def export_task(
    loaded: LoadedTask, out: Path, options: ExportOptions, *, log: Log = lambda _: None
) -> tuple[Bundle, tuple[str, ...]]:
    """Export a whole model that `load_task_model` knows, to a judged bundle at `out`.

    Returns the bundle with its receipt, and notes. Raises as `exporters.bundle.export.export_model`.
    """
    refuse_bytes(options)
    model = loaded.model.eval()
    stride = stride_of(model.backbone)
    preset, size = options.preset or loaded.preset, options.imgsz or loaded.size
    preprocess = Preprocess.from_preset(preset, size, loaded.mean, loaded.std, stride)
    head = HeadFacts(
        task=model.task,  # type: ignore[arg-type]
        kind=loaded.kind,
        inputs=(),
        outputs=tuple(model.outputs),
        classes=model.classes,
        source=Path(loaded.source).name,
        sha256=loaded.sha256,
        licence=loaded.licence or "not stated",
        settings=dict(model.settings),
    )
    fixed = ("height", "width") if model.fixed_size else ()
    job = Job(
        module=model,
        reference=model,
        wrap=partial(NamedOutputs, names=tuple(model.outputs)),
        names=tuple(model.outputs),
        shapes=model.outputs,
        facts=model_facts(
            model.backbone,
            loaded.arch,
            "file",
            Path(loaded.source).name,
            loaded.sha256,
            loaded.layout,
            loaded.dataset,
        ),
        head=head,
        sizes=Sizes(preprocess, fixed, least=model.least_side // stride),
        licence=WEIGHTS_LICENCE,
    )
    bundle, notes = write_whole(job, out, options, log)
    return bundle, (*loaded.notes, *notes)
