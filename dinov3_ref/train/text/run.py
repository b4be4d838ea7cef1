"""`TextRun`: the training loop for the alignment of texts, and what it writes.

    <output>/dinotxt/model.safetensors   backbone, vision head, text tower and logit_scale: one file for
                                         `dinodeploy export --weights RUN/dinotxt --vocab VOCABULARY`
    <output>/dinotxt/config.json         what tensors do not show: options of the backbone, mean and std
    <output>/dinotxt/vocabulary.txt.gz   the vocabulary of the tokenizer (the name of the given file)

The rest is as in `loop.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from dinov3_ref.atomic import replacing
from dinov3_ref.checkpoints.files import MODEL_CONFIG, write_safetensors
from dinov3_ref.distributed import get_rank
from dinov3_ref.train.loop import TrainingRun
from dinov3_ref.train.text.alignment import TextAlignment
from dinov3_ref.train.text.captions import build_caption_loader

FOLDER = "dinotxt"


class TextRun(TrainingRun):
    """A run with `config.text.enabled`. Raises `ConfigError`, `DataError`, `CheckpointError`."""

    def __init__(self, config: Any, device: torch.device | str = "cpu") -> None:
        super().__init__(config, build_caption_loader(config), device)

    def build_networks(self, *, own_teacher: bool) -> TextAlignment:
        return TextAlignment(self.config, self.device)

    def export(self) -> Path:
        return export_dinotxt(self.arch, self.output)


def export_dinotxt(alignment: TextAlignment, folder: Path) -> Path:
    """Write the model below `folder`; each file is replaced atomically, by rank 0. Returns its folder."""
    out = folder / FOLDER
    if get_rank() != 0:
        return out
    out.mkdir(parents=True, exist_ok=True)
    config = alignment.config
    tensors = {name: tensor.cpu().contiguous() for name, tensor in alignment.model.state_dict().items()}
    with replacing(out / "model.safetensors") as draft:
        write_safetensors(tensors, draft)
    described = {
        "trained_by": "dinov3_ref",
        MODEL_CONFIG: alignment.checkpoint.config.kwargs(),
        "pretrained_cfg": {"mean": list(config.crops.rgb_mean), "std": list(config.crops.rgb_std)},
    }
    with replacing(out / "config.json") as draft:
        draft.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    source = Path(config.text.vocabulary)
    with replacing(out / source.name) as draft:
        shutil.copyfile(source, draft)
    return out
