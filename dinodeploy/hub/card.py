"""The model card of a bundle: README.md of its repository, which the hub shows and searches.

The front matter has the licence of the weights, the kind of task, the model that the weights are of; the text
has what is inside, how to use it, the judge's receipts and the limits of its recipe. Only what is between two
marks, and those fields, are written again by a later push: the rest of a card belongs to its author. A
bundle in a folder only adds fields that the card does not have. Source of the fields:
https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from dinodeploy.bundle.bundle import Bundle
from dinodeploy.bundle.manifest import WEIGHTS_LICENCE, Manifest
from dinodeploy.errors import MisuseError, one_line, reason_of
from dinodeploy.hub.reference import HubReference
from dinodeploy.parity.measurement import Measurement
from dinodeploy.parity.receipts import Receipt, read_receipts

CARD_FILE = "README.md"
LIBRARY = "dinodeploy"
HOMEPAGE = "https://github.com/dinodeploy/dinodeploy"
LICENCE_LINK = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
# task of the head -> what the hub calls it (https://huggingface.co/tasks)
PIPELINES = {
    "classify": "image-classification",
    "segment": "image-segmentation",
    "panoptic": "image-segmentation",
    "depth": "depth-estimation",
    "detect": "object-detection",
}
TEXTS, FEATURES = "zero-shot-image-classification", "image-feature-extraction"
# Licences that the hub has a name for, among those that a config.json may state.
KNOWN_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0")
_STATED = re.compile(r"The weights are under (\S+),")  # of `exporters/bundle/export.py`
_RELEASED = re.compile(r"(dinov3_\w+)-([0-9a-f]{8})\.pth")  # its hash begins the SHA-256 of the file
_ON_HUB = re.compile(r"([\w.-]+/[\w.-]+)@[0-9a-f]{40}")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def make_card(bundle: Bundle, reference: HubReference, package: Any, before: str | None = None) -> str:
    """README.md for `bundle` at `reference`; `before` is what the repository has.

    package: huggingface_hub, which reads and writes the front matter. Raises MisuseError for a card whose
    front matter is no YAML.
    """
    title = f"---\nlibrary_name: {LIBRARY}\n---\n\n# {reference.repo.partition('/')[2]}\n"
    try:
        card = package.ModelCard(_with_front_matter(before) if before else title)
    except Exception as error:  # of its YAML parser
        raise MisuseError(
            f"{CARD_FILE} of {reference.repo}: its front matter cannot be read ({reason_of(error)}); fix it"
        ) from error
    for name, value in front_matter(bundle.manifest).items():
        kept = getattr(card.data, name, None)
        if name == "tags":
            setattr(card.data, name, list(dict.fromkeys([*(kept or ()), *value])))
        elif not (kept and before and reference.folder):  # at the root may be another library's model
            setattr(card.data, name, value)
    begin, end = (f"<!-- dinodeploy {reference.folder or '/'}: {word} -->" for word in ("begin", "end"))
    part = "\n".join([begin, "", *_body(bundle, reference), "", end])
    head, found, rest = card.text.partition(begin)
    kept_after = rest.partition(end)[2] if found else "\n"
    card.text = f"{head if found else head.rstrip() + chr(10) * 2}{part}{kept_after}"
    return str(card)


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """The fields that are known of a bundle, by their names on the hub."""
    model, graph = manifest.model, manifest.graph
    tags = [LIBRARY, "onnx", "dinov3", model.arch.replace("_", "-"), graph.recipe]
    runtimes = (facts.build.runtime.split()[0] for facts in manifest.engines.values() if facts.build)
    found: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": pipeline_of(manifest),
        "tags": list(dict.fromkeys([*tags, *(name.replace("_", "-") for name in runtimes)])),
        **_licence(manifest.licence),
    }
    if base := base_model(manifest):
        found["base_model"] = base
        if graph.recipe in ("int8", "fp8"):
            found["base_model_relation"] = "quantized"
    return {name: value for name, value in found.items() if value is not None}


def pipeline_of(manifest: Manifest) -> str | None:
    """The task on the hub; None for a head that it has no name for."""
    if manifest.text is not None:
        return TEXTS
    if manifest.head is None or manifest.head.task == "pyramid":
        return FEATURES
    return PIPELINES.get(manifest.head.task)


def base_model(manifest: Manifest) -> str | None:
    """The repository of the weights, where the manifest proves it: by its commit, or by the file's hash."""
    model = manifest.model
    if model.weights == "hub" and (match := _ON_HUB.fullmatch(model.source)):
        return match[1]
    released = _RELEASED.fullmatch(model.source)
    if model.weights == "file" and released and model.sha256.startswith(released[2]):
        return "facebook/" + released[1].replace("_", "-")
    return None


def _licence(licence: str) -> dict[str, Any]:
    if licence == WEIGHTS_LICENCE:
        return {
            "license": "other",
            "license_name": "dinov3-license",
            "license_link": LICENCE_LINK,
            # shown where the owner of the repository asks for it (`bundle push --gated`)
            "extra_gated_heading": "Accept the DINOv3 License",
            "extra_gated_prompt": "These files are derived from DINOv3, whose weights are gated. They are "
            f"subject to Meta's DINOv3 License: {LICENCE_LINK}",
        }
    stated = _STATED.match(licence)
    if stated and stated[1].lower() in KNOWN_LICENCES:
        return {"license": stated[1].lower()}
    return {"license": "other"} if stated else {}


def _with_front_matter(text: str) -> str:
    return text if re.match(r"\s*---[ \t]*\r?\n", text) else f"---\nlibrary_name: {LIBRARY}\n---\n\n{text}"


def _body(bundle: Bundle, reference: HubReference) -> Iterator[str]:
    manifest = bundle.manifest
    yield f"[dinodeploy]({HOMEPAGE}) bundle: DINOv3 as ONNX, proven equal to its fp32 PyTorch reference on"
    yield "photographs; the machine that uses it proves it again. It runs without PyTorch."
    yield ""
    if manifest.model.weights == "random":
        yield "**Random weights: for trying things, its outputs mean nothing.**"
        yield ""
    yield from _table(("", ""), _facts(manifest))
    yield "## Use"
    yield ""
    yield from _usage(manifest, str(reference))
    yield ""
    receipts = [one for one in read_receipts(bundle) if _is_current(one, manifest)]
    if receipts:
        yield "## Receipts"
        yield ""
        yield "Engines that ran the photographs of `golden.safetensors`, compared with the fp32 reference."
        yield ""
        heads = ("engine", "runtime", "device", "relative error", "smallest cosine")
        yield from _table(heads, (_receipt_row(one) for one in receipts))
        yield f"## Precision: {_plain(manifest.graph.recipe)}"
        yield ""
        yield "What the judge measures for this recipe: the worst of all receipts, and its limit."
        yield ""
        yield from _table(("output", "metric", "measured", "limit"), _precision(receipts))
    yield "## Licence"
    yield ""
    yield _plain(manifest.licence)
    if manifest.head is not None:
        yield ""
        yield f"Head ({_plain(manifest.head.kind)}): {_plain(manifest.head.licence)}"


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    model, graph, steps = manifest.model, manifest.graph, manifest.preprocess
    yield (
        "model",
        f"{_plain(model.arch)}: {model.depth} blocks of width {model.embed_dim}, patch {model.patch_size}",
    )
    yield "weights", f"{model.weights}: {_plain(model.source)}, sha256 {model.sha256[:12]}…"
    yield "precision", _plain(graph.recipe)
    yield "input", f"{steps.height} × {steps.width} pixels, preset {_plain(steps.preset)}"
    outputs = (
        f"{_plain(out.name)} \\[{_plain(', '.join(map(str, out.shape)))}\\]" for out in manifest.outputs
    )
    yield "outputs", ", ".join(outputs)
    if manifest.head is not None:
        classes = f", {len(manifest.head.classes)} classes" if manifest.head.classes else ""
        yield "head", f"{_plain(manifest.head.kind)}{classes}"
    if manifest.text is not None:
        yield "text", f"{manifest.text.context_length} tokens at most, {manifest.text.embed_dim} numbers"
    engines = (f"`{name}` ({_plain(facts.backend)})" for name, facts in manifest.all_engines.items())
    yield "engines", ", ".join(engines)
    size = sum(facts.bytes for facts in manifest.files.values())
    yield "size", f"{size / 2**20:,.1f} MiB; what a machine needs is less"


def _usage(manifest: Manifest, address: str) -> Iterator[str]:
    task = manifest.head.task if manifest.head is not None else None
    if manifest.text is not None:
        command = f"classify photos/ --engine {address} --labels labels.txt"
    elif task in PIPELINES:
        command = f"predict photos/ --engine {address} --out predictions"
    elif task == "custom":
        command = f"inspect {address}"
    else:
        command = f"embed photos/ --engine {address} --out embeddings"
    yield from ("```sh", "pip install 'dinodeploy[hub]'", f"dinodeploy {command}", "```", "")
    yield from ("```py", "from dinodeploy import Embedder", "")
    yield f'with Embedder.open("{address}") as embedder:'
    names = {output.name for output in manifest.outputs}
    call = (
        'vector = embedder.encode("cat.jpg")' if "cls" in names else 'outputs = embedder.embed(["cat.jpg"])'
    )
    yield from (f"    {call}", "```")


def _is_current(receipt: Receipt, manifest: Manifest) -> bool:
    engines = manifest.all_engines
    same = receipt.engine in engines and receipt.engine_sha256 == manifest.engine_sha256(receipt.engine)
    return same and receipt.holds(manifest)


def _receipt_row(receipt: Receipt) -> tuple[str, ...]:
    errors = _values(receipt, "relative_frobenius")
    cosines = _values(receipt, "cosine")
    return (
        f"`{receipt.engine}`",
        _plain(receipt.runtime),
        _plain(receipt.device),
        f"{max(errors):.1e}" if errors else "",
        f"{min(cosines):.7f}" if cosines else "",
    )


def _values(receipt: Receipt, metric: str) -> list[float]:
    found = (one.value for one in receipt.measurements if one.metric == metric)
    return [value for value in found if value is not None]


def _precision(receipts: Sequence[Receipt]) -> Iterator[tuple[str, ...]]:
    """The worst value of every output and metric that has a limit."""
    worst: dict[tuple[str, str], Measurement] = {}
    for one in (measured for receipt in receipts for measured in receipt.measurements):
        if one.limit is None or one.value is None:
            continue
        key = (one.output, one.metric)
        before = worst.get(key)
        if before is None or _margin(one) < _margin(before):
            worst[key] = one
    for (output, metric), one in sorted(worst.items()):
        yield _plain(output), _plain(metric), f"{one.value:.7g}", f"{one.limit:g}"


def _margin(measurement: Measurement) -> float:
    """How far inside its limit, whichever side that is on: all receipts here have passed."""
    assert measurement.value is not None
    assert measurement.limit is not None
    return abs(measurement.limit - measurement.value)


def _table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _plain(text: str) -> str:
    """Text of a manifest in Markdown: one line, nothing in it is markup. Links stay as they are."""
    return _MARKDOWN.sub(r"\\\1", one_line(text))
