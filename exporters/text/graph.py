"""Write the text graph of a dino.txt bundle: golden texts, tokenizer, graphs and weights.

Shapes: T texts, N context length, E embedding size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from dinodeploy.backends import open_backend
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import file_facts
from dinodeploy.bundle.manifest import Manifest
from dinodeploy.bundle.text_facts import TEXT_FILE, TEXT_GOLDEN_FILE, TEXT_OUTPUT, TOKENIZER_FILE, TextFacts
from dinodeploy.errors import ExportError, JudgementError, reason_of
from dinodeploy.parity.text import GoldenTexts, judge_texts, load_texts, save_texts
from dinov3_ref.models import Backbone, DinoVisionTransformer
from dinov3_ref.text import LoadedDinoTxt, TextTower, Tokenizer, VisionHead
from dinov3_ref.text.config import TEXT_MODEL, VISION_HEAD
from exporters.bundle.engines import TEXT, write_engines
from exporters.bundle.options import ExportOptions
from exporters.dialects import DIALECTS, Dialect
from exporters.graph.graph import TOKEN_IDS, finish, tidy, translate
from exporters.graph.lint import check_onnx, lint
from exporters.precision.apply_recipe import RecipeInputs
from exporters.precision.calibrate import watch_linears
from exporters.precision.quantization.scheme import QuantScheme, fold_scheme
from exporters.precision.recipes import RECIPES
from exporters.text.aligned import AlignedBackbone, aligned_state
from exporters.text.calibrate import calibrate_text
from exporters.text.texts import GOLDEN_TEXTS
from exporters.trace.fold import Weights
from exporters.trace.text_tower import TextOutputs, TracedTextTower, make_text_copy, trace_text

Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class TextPart:
    """What dino.txt adds to a backbone: the vision head and text tower as loaded, and the tokenizer."""

    loaded: LoadedDinoTxt
    tokenizer: Tokenizer
    facts: TextFacts

    def with_head(
        self, model: Backbone, state: Mapping[str, Tensor] | None
    ) -> tuple[AlignedBackbone, Mapping[str, Tensor] | None]:
        """The backbone with the vision head after it, and the table of weights with the head's, if any."""
        assert isinstance(model, DinoVisionTransformer), "checked when it was loaded"
        with torch.device("meta"):
            head = VisionHead(self.loaded.config)
        own = _inside(self.loaded.state, VISION_HEAD)
        head.load_state_dict({name: tensor.float() for name, tensor in own.items()}, assign=True)
        whole = state if state is None else aligned_state(state, self.loaded.state)
        return AlignedBackbone(model, head.eval().requires_grad_(False)), whole

    def tower(self) -> TextTower:
        """The text tower in eval mode, in fp32."""
        with torch.device("meta"):
            tower = TextTower(self.loaded.config)
        own = _inside(self.loaded.state, TEXT_MODEL)
        tower.load_state_dict({name: tensor.float() for name, tensor in own.items()}, assign=True)
        return tower.eval().requires_grad_(False)


def _inside(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def prepare_text(loaded: LoadedDinoTxt, vocabulary: str | Path) -> TextPart:
    """A loaded model with its tokenizer. Raises CheckpointError for a file that is not its vocabulary."""
    config = loaded.config
    tokenizer = Tokenizer(vocabulary, config.vocab_size, config.context_length)
    facts = TextFacts(
        graph=TEXT_FILE,
        vocabulary=TOKENIZER_FILE,
        vocabulary_sha256=hashlib.sha256(tokenizer.to_json().encode()).hexdigest(),
        vocabulary_size=config.vocab_size,
        context_length=config.context_length,
        embed_dim=config.embed_dim,
        logit_scale=math.exp(loaded.log_scale),
        depth=config.text_depth,
        source=loaded.source,
        sha256=loaded.sha256,
    )
    return TextPart(loaded, tokenizer, facts)


def write_text(
    part: TextPart, manifest: Manifest, root: Path, options: ExportOptions, log: Log
) -> tuple[Manifest, list[str]]:
    """Write every file of the text graph; returns the manifest with them, and notes for the user.

    Raises ExportError, LintError, JudgementError.
    """
    recipe, notes = RECIPES[options.recipe], list[str]()
    (root / TOKENIZER_FILE).write_bytes(part.tokenizer.to_json().encode())
    tower = part.tower()
    log("running the text tower on the golden texts")
    with watch_linears(tower) as ranges:
        save_texts(make_golden(part.tokenizer, tower), root / TEXT_GOLDEN_FILE)
    meta_copy, weights = make_text_copy(tower, options.folds)
    scheme: QuantScheme | None = None
    if recipe.quantized:
        calibrated = calibrate_text(tower, weights, part.tokenizer, recipe, options.text_overrides, log)
        scheme, notes = calibrated.scheme, list(calibrated.notes)
        fold_scheme(weights, scheme)
        facts = replace(part.facts, given_back=calibrated.fallback_layers)
        manifest = replace(manifest, text=facts)
    graph = _make_graph(meta_copy, weights, part.facts, DIALECTS[options.dialect], log)
    lint(graph)
    check_onnx(graph)
    graph.metadata_props[manifests.METADATA_KEY] = manifest.facts()
    graph.metadata_props["licence"] = manifest.licence
    log("writing the weights of the text graph")
    written = write_engines(
        graph, recipe, RecipeInputs(ranges, scheme, options.text_overrides), root, names=TEXT
    )
    if written.proxy is not None:
        _judge_proxy(written.proxy, root, part, options.recipe)
    names = dict.fromkeys(name for facts in written.engines.values() for name in facts.files)
    files = {name: file_facts(root / name) for name in (*names, TOKENIZER_FILE, TEXT_GOLDEN_FILE)}
    return replace(manifest, text_engines=written.engines, files=files), notes


def make_golden(tokenizer: Tokenizer, tower: TextTower) -> GoldenTexts:
    """The golden texts, their ids [T,N], and the reference's embeddings [T,E]."""
    ids = tokenizer.tokenize(GOLDEN_TEXTS)
    with torch.inference_mode():
        embeddings = tower(ids).numpy()
    return GoldenTexts(GOLDEN_TEXTS, ids.numpy(), embeddings)


def _make_graph(
    meta_copy: TracedTextTower, weights: Weights, facts: TextFacts, dialect: Dialect, log: Log
) -> ir.Model:
    """The traced tower as an fp32 graph with lazy weights."""
    log("tracing the text tower")
    try:
        program = trace_text(TextOutputs(meta_copy))
        graph = translate(program, dialect, (TOKEN_IDS,), (TEXT_OUTPUT,))
        tidy(graph, weights)
    except Exception as error:  # torch.export and torch.onnx pass on any exception
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise ExportError(f"this text tower cannot be traced: {reason}") from error
    graph.graph.inputs[0].shape = ir.Shape(["texts", "tokens"])
    graph.graph.outputs[0].shape = ir.Shape(["texts", facts.embed_dim])
    finish(graph, dialect)
    return graph


def _judge_proxy(proxy: Path, root: Path, part: TextPart, recipe: str) -> None:
    """Judge the typed graph through its CPU proxy graph, then delete that. Raises JudgementError."""
    backend = open_backend("onnxruntime", proxy)
    try:
        judged = judge_texts(
            load_texts(root / TEXT_GOLDEN_FILE),
            lambda texts: part.tokenizer.tokenize(list(texts)).numpy(),
            lambda ids: backend.run(ids)[TEXT_OUTPUT],
            recipe,
        )
    finally:
        backend.close()
        proxy.unlink()
    if not judged.passed:
        first = judged.failures[0]
        raise JudgementError(f"the {recipe} text graph for GPUs is not the model: {first.sentence}")
