"""The model card (README.md) of a folder for transformers.js: what it is, how it was judged, how to load it.

Source of the fields at its top: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

from collections.abc import Sequence

from dinodeploy.bundle.layout import JudgedGraph
from dinodeploy.bundle.manifest import WEIGHTS_LICENCE, Manifest

META_TERMS = """license: other
license_name: dinov3-license
license_link: https://ai.meta.com/resources/models-and-libraries/dinov3-license/"""
ROW = "| `{one.file}` | {one.precision} | {size:.1f} MB | {one.relative_error:.1e} | {one.cosine:.7f} |"

CROP = " transformers may crop one pixel further left or up than torchvision and timm do."


def model_card(name: str, manifest: Manifest, graphs: Sequence[JudgedGraph]) -> str:
    """Markdown with a table of the graphs and the figures of the judge."""
    terms = META_TERMS if manifest.licence == WEIGHTS_LICENCE else "license: other"
    model, preprocess, dim = manifest.model, manifest.preprocess, manifest.model.embed_dim
    crop = CROP if preprocess.steps.fit == "short-side-crop" else ""
    side = f"{preprocess.height} × {preprocess.width}"
    rows = "\n".join(ROW.format(one=graph, size=graph.bytes / 1e6) for graph in graphs)
    trial = "\n**The weights are random: this is a model for trials.**\n" if model.weights == "random" else ""
    registers = f", {model.storage_tokens} register tokens" if model.storage_tokens else ""
    return f"""---
library_name: transformers.js
pipeline_tag: image-feature-extraction
tags: [dinov3, onnx]
{terms}
---

# {name}

{model.arch} (weights: {model.source}) as ONNX, exported by {manifest.created_by}.
{trial}
`pixel_values` [batch, 3, height, width] → `last_hidden_state` [batch, tokens, {dim}]: CLS{registers},
patches row by row; `pooler_output` [batch, {dim}]. Height and width: any multiples of {model.patch_size}.

Each graph was compared with the fp32 PyTorch model on photographs, token by token, before it was written, and
is within the limits of its precision ({graphs[0].runtime}):

| file | precision | size | relative error, largest | cosine, smallest |
|---|---|---|---|---|
{rows}

Preprocessing: {preprocess.preset}, {side}. transformers.js resizes with the browser's
canvas, whose pixels differ from those of Python's libraries.{crop}

```js
import {{ pipeline }} from '@huggingface/transformers';
const extract = await pipeline('image-feature-extraction', '{name}');
const features = await extract('cat.jpg'); // [1, tokens, {dim}]
```

Licence: {manifest.licence}
"""
