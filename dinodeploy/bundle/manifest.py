"""The manifest of a bundle (manifest.json): all facts a runtime needs, as versioned, schema-checked JSON.

`digest` is the SHA-256 of the rest, so an edit by hand is detected. The facts that decide the outputs (model,
preprocessing, outputs, recipe) are repeated in the metadata of the ONNX file, whose hash is in `files`. Both
must agree before a bundle is used.

`preference` lists the engines, the best first; the order of the JSON object `engines` means nothing. A
manifest without it (older versions) has the order of `PREFERENCE`, then the other engines by name.

    format 1    weights inside model.onnx (or model.onnx.data); CLS-only graphs listed in `files` alone
    format 2    weights in model.onnx.data, shared by all graphs; every graph listed in `engines`

Both formats are read; an export writes format 2. A format 1 manifest gets the missing `engines` entries when
it is read, and is written without them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinodeploy.bundle.facts import (
    AdapterFacts,
    BuildFacts,
    EngineFacts,
    FileFacts,
    GraphFacts,
    HeadFacts,
    ModelFacts,
    OutputFacts,
    ProfileFacts,
)
from dinodeploy.bundle.text_facts import TEXT_GOLDEN_FILE, TEXT_OUTPUT, TextFacts
from dinodeploy.errors import BundleError, TamperedError
from dinodeploy.files import schema
from dinodeploy.files.atomic import atomic_file
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.names import folded
from dinodeploy.files.regular import read_regular
from dinodeploy.images.preprocess import MAX_PATCHES, Preprocess

__all__ = [
    "AdapterFacts",
    "BuildFacts",
    "EngineFacts",
    "FileFacts",
    "GraphFacts",
    "HeadFacts",
    "Manifest",
    "ModelFacts",
    "OutputFacts",
    "ProfileFacts",
    "as_recorded",
    "canonical",
    "licence_text",
    "parse_manifest",
    "read_manifest",
    "write_licence",
    "write_manifest",
]

FILE_NAME = "manifest.json"
FORMAT = 2  # written
FORMATS = (1, 2)  # read
METADATA_KEY = "dinodeploy.facts"  # in the ONNX file

MODEL_FILE = "model.onnx"  # the graph that GPUs run and plans are built from
CPU_FILE = "model.cpu.onnx"  # the graph that CPUs run, where they have one of their own
VNNI_FILE = "model.cpu.vnni.onnx"  # that of int8 for CPUs with VNNI
WEIGHTS_FILE = "model.onnx.data"
RECEIPTS_FILE = "parity.json"  # grows as the bundle is judged: neither in the manifest nor signed
SIGNATURE_FILE = "model.sig"
LICENCE_FILE = "LICENSE.txt"  # of the weights, for people
# Beside the files that a manifest lists, and how large they may be at most.
EXTRAS = {FILE_NAME: 1 << 24, RECEIPTS_FILE: 1 << 24, SIGNATURE_FILE: 1 << 24, LICENCE_FILE: 1 << 20}
GRAPH_BACKEND = "onnxruntime_cuda"  # runs MODEL_FILE where CPUs have another graph
# CLS-only graph -> the full graph that gives the same numbers
CLS_ONLY: dict[str, str] = {
    "model.cls.onnx": MODEL_FILE,
    "model.cpu.cls.onnx": CPU_FILE,
    "model.cpu.vnni.cls.onnx": VNNI_FILE,
}
CLS_ONLY_OUTPUTS = ("cls",)
PREFERENCE = (CPU_FILE, MODEL_FILE, *CLS_ONLY, "model.plan")  # the best first, where a manifest says nothing
CLS_PLAN = ".cls.plan"  # NAME.cls.plan is the CLS-only plan beside NAME.plan
MAX_ENGINES = 256

WEIGHTS_LICENCE = (
    "DINOv3 weights and whatever is derived from them, this bundle included, are subject to Meta's DINOv3 "
    "License: https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
)
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
OWN_FILES = frozenset({FILE_NAME, RECEIPTS_FILE, SIGNATURE_FILE})  # which no manifest can list


@dataclass(frozen=True)
class Manifest:
    """Root of manifest.json."""

    format: int
    created_by: str
    model: ModelFacts
    preprocess: Preprocess
    outputs: tuple[OutputFacts, ...]
    graph: GraphFacts
    engines: dict[str, EngineFacts]
    files: dict[str, FileFacts]
    licence: str
    digest: str = ""
    head: HeadFacts | None = None
    preference: tuple[str, ...] = ()  # engines, the best first; `order` has those that it leaves out
    text: TextFacts | None = None  # of dino.txt
    text_engines: dict[str, EngineFacts] = field(default_factory=dict)  # the best first; not in `engines`

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            known = " and ".join(map(str, FORMATS))
            raise BundleError(f"{FILE_NAME} is of format {self.format}; this version reads formats {known}")
        names = set(OWN_FILES)
        for name in self.files:
            if not PLAIN_NAME.fullmatch(name):
                raise BundleError(f"{FILE_NAME} names {name[:300]!r}; wanted a plain file name in the bundle")
            if folded(name) in names:
                raise BundleError(f"{FILE_NAME} names the file {name!r}, on some systems another file's name")
            names.add(folded(name))
        if len(self.engines) > MAX_ENGINES:
            raise BundleError(f"{FILE_NAME} has {len(self.engines):,} engines; wanted at most {MAX_ENGINES}")
        for engine, facts in self.engines.items():
            if problem := self._problem(engine, facts):
                raise BundleError(f"{FILE_NAME}: engine {engine!r} {problem}")
        if problem := self._text_problem():
            raise BundleError(f"{FILE_NAME}: text: {problem}")
        if len(set(self.preference)) < len(self.preference):
            raise BundleError(f"{FILE_NAME}: `preference` names an engine twice; wanted each once")

    def _problem(self, engine: str, facts: EngineFacts) -> str:
        """What is wrong with an entry of `engines`, or nothing."""
        for name in (engine, *facts.files):
            if name not in self.files:
                return f"needs {name!r}, which `files` does not list"
        full = facts.same_numbers_as
        if full is not None and (full not in self.engines or self.engines[full].same_numbers_as):
            return f"refers to {full!r}; wanted a full engine of `engines`"
        source = facts.build.source if facts.build is not None else None
        graphs = {name for name, other in self.engines.items() if other.build is None}
        if self.format == 1 and MODEL_FILE in self.files:  # which gets its entry when it is read
            graphs.add(MODEL_FILE)
        if source is not None and source not in graphs:
            return f"was built from {source!r}; wanted a graph of `engines`"
        if unknown := sorted(set(facts.outputs) - {output.name for output in self.outputs}):
            return f"has output {unknown[0]!r}, which `outputs` does not list"
        return ""

    def _text_problem(self) -> str:
        """What is wrong with the text graph, or nothing. It has its files to itself."""
        if self.text is None:
            return f"`text_engines` has {next(iter(self.text_engines))!r}" if self.text_engines else ""
        names = {name for name, facts in self.text_engines.items() for name in (name, *facts.files)}
        needed = {self.text.graph, self.text.vocabulary, TEXT_GOLDEN_FILE, *names}
        if not self.files:  # it is being written
            return ""
        if self.text.graph not in self.text_engines:
            return f"`text_engines` lacks the graph {self.text.graph!r}"
        if missing := sorted(needed - set(self.files)):
            return f"needs {missing[0]!r}, which `files` does not list"
        shared = names & {name for engine, facts in self.engines.items() for name in (engine, *facts.files)}
        if shared:
            return f"{sorted(shared)[0]!r} belongs to an image engine too"
        if any(facts.outputs != (TEXT_OUTPUT,) for facts in self.text_engines.values()):
            return f"wanted {TEXT_OUTPUT} as the one output of every engine"
        return ""

    @property
    def all_engines(self) -> dict[str, EngineFacts]:
        """The engines of both graphs; `engines` has those that run on images."""
        return {**self.engines, **self.text_engines}

    def facts(self) -> str:
        """The part that decides the outputs, as canonical JSON: what the ONNX metadata repeats."""
        whole = _stored(self)
        parts = ("format", "model", "preprocess", "outputs", "graph", "head", "text")
        return canonical({key: whole[key] for key in parts if key in whole})

    @property
    def order(self) -> tuple[str, ...]:
        """Every engine, the preferred one first."""
        known = [name for name in self.preference or PREFERENCE if name in self.engines]
        return (*known, *sorted(self.engines.keys() - set(known)))

    def with_preference(self) -> Manifest:
        """The same manifest with its order of engines written down."""
        return replace(self, preference=self.order)

    def outputs_of(self, engine: str) -> tuple[str, ...]:
        """Names of the outputs that an engine computes."""
        return self.all_engines[engine].outputs or tuple(output.name for output in self.outputs)

    def files_of(self, engine: str) -> tuple[str, ...]:
        """Every file that is read when an engine is opened; of a plan without weights also its graph's."""
        facts = self.all_engines[engine]
        stripped = facts.build is not None and facts.build.stripped
        source = self.all_engines[facts.build.source].files if facts.build is not None and stripped else ()
        return tuple(dict.fromkeys((engine, *facts.files, *source)))

    def family(self, engine: str) -> tuple[str, ...]:
        """The engines that read one of the files of `engine`, itself included: damage to one damages all."""
        own = set(self.files_of(engine))
        return tuple(name for name in self.all_engines if own & set(self.files_of(name)))

    def fingerprint(self, engine: str, preprocess: Preprocess) -> dict[str, Any]:
        """What decides the numbers of an embedding. Stores may be mixed only if theirs are equal.

        An engine and the CLS-only graph of the same numbers have the same one. `files_sha256` is over every
        file that either of them reads; older versions did not record it (`as_recorded`).
        """
        full = self.all_engines[engine].same_numbers_as or engine
        same = [name for name, facts in self.all_engines.items() if facts.same_numbers_as == full]
        adapter = self.model.adapter
        return {
            "arch": self.model.arch,
            "weights_sha256": self.model.sha256,
            **({"adapter_sha256": adapter.sha256} if adapter is not None else {}),
            "engine_sha256": self.engine_sha256(full),
            "files_sha256": self._hash_of({name for one in (full, *same) for name in self.files_of(one)}),
            "recipe": self.graph.recipe,
            "preprocess": _without_defaults(schema.dump(preprocess)),
            **({"text_sha256": self.text_sha256} if self.text is not None else {}),
        }

    @property
    def text_sha256(self) -> str:
        """Hash of the text graph and its vocabulary; "" in a bundle without texts."""
        if self.text is None:
            return ""
        return self._hash_of((*self.text_engines[self.text.graph].files, self.text.vocabulary))

    def engine_sha256(self, engine: str) -> str:
        """Hash of an engine and the files it lists; in format 1 of the engine file alone."""
        facts = self.all_engines[engine]
        if self.format == 1 or len(facts.files) == 1:
            return self.files[engine].sha256
        return self._hash_of(facts.files)

    def judged_sha256(self, engine: str, golden: str) -> str:
        """Hash of everything that a judgement of `engine` on the file `golden` depends on.

        That is every byte that the engine reads, the golden file, and the facts that decide the outputs.
        """
        facts = schema.dump(self.all_engines[engine])
        if not facts["instructions"]:  # older versions did not know it: their receipts stay valid
            del facts["instructions"]
        files = self._hash_of((*self.files_of(engine), golden))
        return hashlib.sha256(canonical([self.facts(), engine, facts, files]).encode()).hexdigest()

    def _hash_of(self, names: Iterable[str]) -> str:
        hashes = {name: self.files[name].sha256 for name in names}
        return hashlib.sha256(canonical(hashes).encode()).hexdigest()

    def sealed(self) -> Manifest:
        """The same manifest with its digest filled in."""
        return replace(self, digest=self._digest())

    def _digest(self) -> str:
        return hashlib.sha256(canonical(_stored(replace(self, digest=""))).encode()).hexdigest()

    def check_digest(self) -> None:
        """Raises TamperedError when a field was changed after the manifest was written."""
        if self.digest != self._digest():
            raise TamperedError(
                f"{FILE_NAME} was changed after export: its digest is {self.digest[:12]!r}, of its content "
                f"{self._digest()[:12]!r}; export again instead of editing"
            )


def _stored(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is written: without defaults, and in format 1 without what that did not list.

    Older versions did not know every field: without defaults, their digests stay valid.
    """
    whole = schema.dump(manifest)
    if manifest.format == 1:
        for name, facts in manifest.engines.items():
            if facts.backend == GRAPH_BACKEND or facts.same_numbers_as is not None:
                del whole["engines"][name]
    for engine in (*whole["engines"].values(), *whole["text_engines"].values()):
        for name in ("build", "outputs", "same_numbers_as", "instructions"):
            if not engine[name]:
                del engine[name]
    for name in ("head", "preference", "text", "text_engines"):
        if not whole[name]:
            del whole[name]
    for name in ("weights_key", "adapter"):
        if whole["model"][name] is None:
            del whole["model"][name]
    for name in ("overrides", "given_back", "calibration_pictures", "attention", "fixed", "backbones"):
        if not whole["graph"][name]:
            del whole["graph"][name]
    if whole["graph"]["head_precision"] == "fp32":
        del whole["graph"]["head_precision"]
    if "head" in whole and not whole["head"]["settings"]:
        del whole["head"]["settings"]
    _without_defaults(whole["preprocess"])
    return whole


def as_recorded(now: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """A fingerprint without what the version that wrote `recorded` did not record, to compare the two."""
    return {key: value for key, value in now.items() if key in recorded or key != "files_sha256"}


def _with_all_engines(manifest: Manifest) -> Manifest:
    """A format 1 manifest with an entry for each graph that can run."""
    engines, files = dict(manifest.engines), manifest.files
    if MODEL_FILE in files and MODEL_FILE not in engines:
        weights = (WEIGHTS_FILE,) if WEIGHTS_FILE in files else ()
        engines[MODEL_FILE] = EngineFacts(GRAPH_BACKEND, (MODEL_FILE, *weights))
    for name, full in CLS_ONLY.items():
        if name in files and full in engines and name not in engines:
            facts = engines[full]
            engines[name] = EngineFacts(
                facts.backend, (name, *facts.files), outputs=CLS_ONLY_OUTPUTS, same_numbers_as=full
            )
    return replace(manifest, engines=engines)


def _without_defaults(preprocess: dict[str, Any]) -> dict[str, Any]:
    if preprocess["max_patches"] == MAX_PATCHES:
        del preprocess["max_patches"]
    if preprocess["jpeg"] == "whole":
        del preprocess["jpeg"]
    if preprocess["dtype"] == "float32":
        del preprocess["dtype"]
    return preprocess


def canonical(data: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_manifest(root: Path) -> Manifest:
    """Read and check `root`'s manifest. Raises BundleError or TamperedError."""
    return _checked(schema.read(Manifest, root / FILE_NAME, "manifest"))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Check a manifest that has been read; `where` names it in messages. Raises as `read_manifest`."""
    return _checked(schema.parse(Manifest, parse_json(content, where, "manifest"), where))


def _checked(manifest: Manifest) -> Manifest:
    manifest.check_digest()
    return _with_all_engines(manifest) if manifest.format == 1 else manifest


def write_manifest(manifest: Manifest, root: Path) -> None:
    """Seal the manifest and write it atomically, indented for people; the weights' licence beside it."""
    text = json.dumps(_stored(manifest.sealed()), indent=2, ensure_ascii=False)
    write_licence(manifest, root)
    with atomic_file(root / FILE_NAME) as file:
        file.write(text.encode() + b"\n")


def licence_text(manifest: Manifest) -> bytes:
    """What LICENSE.txt says."""
    return f"The weights in this bundle:\n\n{manifest.licence}\n".encode()


def write_licence(manifest: Manifest, root: Path) -> None:
    """Write LICENSE.txt, atomically; what is there stays if it says the same."""
    text = licence_text(manifest)
    try:
        if read_regular(root / LICENCE_FILE, follow=False) == text:
            return
    except OSError:
        pass
    with atomic_file(root / LICENCE_FILE) as file:
        file.write(text)
