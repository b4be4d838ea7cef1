"""dino.txt: DINOv3 with text, one space for images, patches and sentences (docs/spec.md 5.8)."""

from __future__ import annotations

from dinov3_ref.text.config import DinoTxtConfig, expected_shapes
from dinov3_ref.text.dinotxt import DINOTxt, build_dinotxt
from dinov3_ref.text.load import LoadedDinoTxt, load_dinotxt, random_dinotxt
from dinov3_ref.text.text_tower import TextTower
from dinov3_ref.text.tokenizer import Tokenizer
from dinov3_ref.text.vision_tower import VisionHead, VisionTower

__all__ = [
    "DINOTxt",
    "DinoTxtConfig",
    "LoadedDinoTxt",
    "TextTower",
    "Tokenizer",
    "VisionHead",
    "VisionTower",
    "build_dinotxt",
    "expected_shapes",
    "load_dinotxt",
    "random_dinotxt",
]
