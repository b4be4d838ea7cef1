"""Self-supervised training and distillation of DINOv3 (docs/spec.md 4).

loop.py            the training loop of one run          step.py      one training step
students.py        the loop of several students          optimizer.py AdamW, rates, clipping
ssl_meta_arch.py   student, teachers -> losses           batch.py     what a step reads
param_groups.py    learning rate and decay per parameter checkpoints.py, export_teacher.py
networks/  schedules/  distributed/  logging/
"""
