"""Find the weights in a folder: of a model, of a training run, or of the hub's cache.

model.safetensors, pytorch_model.bin, and their .index.json   transformers, timm, accelerate, DeepSpeed's
                                                              zero_to_fp32.py
last.ckpt, model_best.pth.tar                                 Lightning, timm: the only file
models--ORG--NAME/snapshots/COMMIT/                           the hub's cache; refs/main names the commit
adapter_model.safetensors                                     PEFT: refused, it is not a whole model
*.distcp, zero_pp_rank_*                                      sharded training state: refused
"""

from __future__ import annotations

import re
from pathlib import Path

from dinov3_ref.errors import CheckpointError

WEIGHTS_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Files of a training run that hold no weights.
NOT_WEIGHTS = re.compile(
    r"(?:optimizer|scheduler|scaler|sampler|random_states|rng_state|training_args|custom_checkpoint)\b.*|.*_optim_states\.pt"
)
LISTED = 3  # names in a message


def find_weights(folder: Path) -> Path:
    """The weights of `folder`. Raises `CheckpointError` with the way out unless there is exactly one."""
    folder = _snapshot(folder)
    for name in WEIGHTS_NAMES:
        if (folder / name).is_file():
            return folder / name
    _refuse_parts(folder)
    found = sorted(filter(_is_weights, folder.iterdir()))
    if len(found) == 1:
        return found[0]
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and _has_weights(path))
    if not found and len(inside) == 1:
        return find_weights(folder / inside[0])
    names = ", ".join([path.name for path in found][:LISTED]) or "none"
    below = f"; its folders {', '.join(inside[:LISTED])} hold some" if inside else ""
    raise CheckpointError(
        f"{folder} holds {len(found)} checkpoint files ({names}){below}; wanted {WEIGHTS_NAMES[0]} or "
        f"exactly one file ending in {', '.join(WEIGHTS_SUFFIXES)}; name the file or folder"
    )


def refuse_partial(path: Path) -> None:
    """Raise `CheckpointError` for a part of a model, by its name: a PEFT adapter, a DeepSpeed rank."""
    if re.fullmatch(r"adapter_model\.(?:safetensors|bin)", path.name):
        raise _adapter(path.parent)
    if re.match(r"(?:bf16_)?zero_pp_rank_", path.name):
        raise _deepspeed(path.parent)


def _snapshot(folder: Path) -> Path:
    """The commit's folder, if `folder` is a repository in the hub's cache; else `folder`."""
    if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
        folder = folder.parent
    snapshots = folder / "snapshots"
    if not folder.name.startswith("models--") or not snapshots.is_dir():
        return folder
    commits = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    if main.is_file() and (named := main.read_text(encoding="utf-8", errors="replace").strip()) in commits:
        return snapshots / named
    if len(commits) == 1:
        return snapshots / commits[0]
    raise CheckpointError(
        f"{folder} holds {len(commits)} snapshots ({', '.join(commits[:LISTED]) or 'none'}) and no refs/main "
        "that names one; name the snapshot's folder, or download the model again"
    )


def _refuse_parts(folder: Path) -> None:
    """Raise `CheckpointError` for a folder of a model's parts, with the way to a whole model."""
    if (folder / "adapter_config.json").is_file():
        raise _adapter(folder)
    cached = sorted(path.name for path in folder.glob("models--*") if path.is_dir())
    if cached:
        raise CheckpointError(
            f"{folder} is a hub cache of {len(cached)} models ({', '.join(cached[:LISTED])}); name one of "
            "its folders, or give --weights hub with --arch"
        )
    if any(folder.glob("*.distcp")):
        raise CheckpointError(
            f"{folder} is a distributed training checkpoint (.distcp); convert it to one file with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        )
    if any(folder.glob("*zero_pp_rank_*")) or any(folder.glob("global_step*/*zero_pp_rank_*")):
        raise _deepspeed(folder)


def _adapter(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder} is a PEFT adapter, not a whole model; give the base model as --weights and the "
        "folder as --adapter"
    )


def _deepspeed(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder} is a DeepSpeed ZeRO checkpoint in parts, one per rank; make one file of it with "
        "python zero_to_fp32.py CHECKPOINT_FOLDER OUT, and give OUT"
    )


def _has_weights(folder: Path) -> bool:
    return any(map(_is_weights, folder.iterdir()))


def _is_weights(path: Path) -> bool:
    hidden = path.name.startswith(".")  # half written, or macOS's `._NAME`
    usual = path.suffix in WEIGHTS_SUFFIXES and not hidden and not NOT_WEIGHTS.fullmatch(path.name)
    return usual and path.is_file()
