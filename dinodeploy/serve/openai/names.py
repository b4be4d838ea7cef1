"""Model ids of /v1: one for each output that is one vector per image.

    dinov3_vits16           the default: image_embedding where the bundle has texts, else cls
    dinov3_vits16:pooled    another output

A client that changes the output changes the model, so that embeddings of two outputs are never mixed. The
name before the colon is `serve --served-model-name`, else the hub id of the weights, else the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Service
from dinodeploy.serve.words import IMAGE_EMBEDDING

FIRST = (IMAGE_EMBEDDING, "cls")  # outputs that are the default, the first that there is


@dataclass(frozen=True)
class ServedModel:
    """One id, the output that it stands for, its size, and whether it also embeds texts."""

    id: str
    output: str
    dimensions: int
    texts: bool


def served_models(service: Service) -> dict[str, ServedModel]:
    """Every model by its id, the default first. Empty for a bundle whose outputs are all maps or classes."""
    sizes = _vector_sizes(service)
    facts = service.embedder.manifest.model
    name = service.settings.served_model_name or (facts.source if facts.weights == "hub" else facts.arch)
    found: dict[str, ServedModel] = {}
    for output in sizes:
        texts = output == IMAGE_EMBEDDING and service.words is not None
        for id in ([name] if not found else []) + [f"{name}:{output}"]:
            found[id] = ServedModel(id, output, sizes[output], texts)
    return found


def _vector_sizes(service: Service) -> dict[str, int]:
    """The outputs of one vector per image, and their sizes; the default first."""
    manifest = service.embedder.manifest
    head = manifest.head
    predicted = () if head is None or head.task == "custom" else head.outputs
    sizes = {
        output.name: int(output.shape[1])
        for output in manifest.outputs
        if len(output.shape) == 2 and output.name not in predicted and output.name in service.output_names
    }
    dim = manifest.model.embed_dim
    for name, size in (("pooled", 2 * dim), ("mean_patch", dim)):
        if name in service.output_names:
            sizes[name] = size
    first = [name for name in FIRST if name in sizes]
    return {name: sizes[name] for name in dict.fromkeys((*first, *sizes))}


def find_model(models: dict[str, ServedModel], id: str) -> ServedModel:
    """Raises Refused, 404 with the code `model_not_found`."""
    if id in models:
        return models[id]
    known = ", ".join(models) or "none: no output of this bundle is one vector per image"
    message = f"the model {id[:60]!r} is not served here; there is {known}"
    raise Refused(404, message, param="model", code="model_not_found")
