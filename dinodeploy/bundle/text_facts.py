"""The text graph of a dino.txt bundle, in the manifest."""

from __future__ import annotations

from dataclasses import dataclass

TEXT_FILE = "text.onnx"  # the graph that GPUs run
TEXT_CPU_FILE = "text.cpu.onnx"  # the graph that CPUs run, where they have one of their own
TEXT_WEIGHTS_FILE = "text.onnx.data"
TOKENIZER_FILE = "tokenizer.json"  # of the library `tokenizers`
TEXT_GOLDEN_FILE = "golden.text.safetensors"
TEXT_OUTPUT = "text_embedding"


@dataclass(frozen=True)
class TextFacts:
    """What text becomes: token ids [T, context_length], then an embedding [T, embed_dim] beside images'.

    The engines are `text_engines` of the manifest. The facts are part of what decides the outputs, so both
    graphs of a bundle repeat them.
    """

    graph: str  # the graph that others are made from, a file of the bundle
    vocabulary: str  # the tokenizer, a file of the bundle
    vocabulary_sha256: str
    vocabulary_size: int
    context_length: int
    embed_dim: int  # of `text_embedding` and `image_embedding`
    logit_scale: float  # factor of cosines, before a softmax over texts
    depth: int
    source: str  # file of the text tower and the vision head
    sha256: str  # of that file
    given_back: tuple[str, ...] = ()  # groups of layers that an 8-bit recipe runs in fp16
