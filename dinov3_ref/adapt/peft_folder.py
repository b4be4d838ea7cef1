"""Write LoRA layers as a folder of PEFT: adapter_model.safetensors and adapter_config.json.

Layers have the names that transformers' model has in memory, so PEFT puts the adapter on it:
`PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), FOLDER)`. `dinodeploy export --adapter FOLDER`
merges it into the base in any layout.

Source: docs/spec.md 3.3 (names); https://huggingface.co/docs/peft/developer_guides/checkpoint (the format).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from torch import Tensor, nn

from dinov3_ref.adapt.lora import LoraOptions, lora_layers
from dinov3_ref.atomic import replacing
from dinov3_ref.checkpoints.adapters.config import FILE_NAME
from dinov3_ref.checkpoints.adapters.read import PREFIX, WEIGHTS
from dinov3_ref.checkpoints.files import write_safetensors
from dinov3_ref.checkpoints.layouts.convnext import CONVNEXT_LAYOUTS
from dinov3_ref.checkpoints.layouts.detect import LAYOUTS
from dinov3_ref.models import ConvNeXt

BLOCK = re.compile(r"^(?=(?:layer|stages)\.\d)")  # transformers keeps them in `model` in memory


def write_adapter(backbone: nn.Module, options: LoraOptions, folder: Path, base: str = "") -> None:
    """Write the LoRA layers of `backbone` into `folder`, which is made. base: hub name of the base model."""
    layouts = CONVNEXT_LAYOUTS if isinstance(backbone, ConvNeXt) else LAYOUTS
    layout = next(one for one in layouts if one.name == "hf")
    tensors: dict[str, Tensor] = {}
    targets = set()
    for name, layer in lora_layers(backbone):
        names = {third: key for key, third in layout.places(f"{name}.weight").items()}
        for third, a, b in zip(layer.thirds, layer.a, layer.b, strict=True):
            module = BLOCK.sub("model.", names[third].removesuffix(".weight"))
            targets.add(module.rpartition(".")[2])
            tensors[f"{PREFIX}{module}.lora_A.weight"] = a.detach().float().cpu().contiguous()
            tensors[f"{PREFIX}{module}.lora_B.weight"] = b.detach().float().cpu().contiguous()
    alpha = options.scale_numerator
    config = {
        "base_model_name_or_path": base or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": options.dropout,
        "peft_type": "LORA",
        "r": options.rank,
        "target_modules": sorted(targets),
        "task_type": "FEATURE_EXTRACTION",
        "use_dora": False,
        "use_rslora": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS[0]) as draft:
        write_safetensors(tensors, draft, {"format": "pt"})
    with replacing(folder / FILE_NAME) as draft:
        draft.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
