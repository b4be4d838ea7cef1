"""Whole models built on DINOv3: detectors, segmenters, depth, fine-tuned classifiers."""

from __future__ import annotations

from dinov3_ref.tasks.load import KINDS, LoadedTask, TaskKind, load_task_model, recognise
from dinov3_ref.tasks.task_model import TaskModel

__all__ = ["KINDS", "LoadedTask", "TaskKind", "TaskModel", "load_task_model", "recognise"]
