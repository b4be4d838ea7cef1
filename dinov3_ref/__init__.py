"""The reference in PyTorch: model, checkpoints, training."""

import os

# Before huggingface_hub is imported, which reads it then. Source:
# https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
