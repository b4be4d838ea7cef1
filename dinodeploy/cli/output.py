"""What every command shares: results on stdout, everything else on stderr, and options read from text."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

from rich.console import Console

from dinodeploy.errors import MisuseError, one_line
from dinodeploy.pipeline.progress import stderr as stderr  # commands import it from here

DEVICE_HELP = "Device: auto, cpu, onnxruntime, openvino, cuda or tensorrt. auto: the best that runs here."
REQUIRE_SIGNATURE_HELP = "Public key file (PEM). Refuse a bundle that is not signed with it as a whole."
WEIGHT_BUDGET_HELP = (
    "GiB of weights that a weight-streaming plan keeps on the GPU. Default: TensorRT's choice."
)


def stdout() -> Console:
    return Console(highlight=False, soft_wrap=True)


def fail(message: str, code: int) -> NoReturn:
    """Print one line on stderr and exit."""
    print("error: " + " ".join(one_line(message).split()), file=sys.stderr)
    sys.exit(code)


def note(topic: str, text: str) -> None:
    """A line on stderr that is not an error: [topic] text."""
    print(f"[{topic}] {text}", file=sys.stderr)  # not through rich, which reads brackets as markup


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`256` or `224,384` -> (H, W). Raises MisuseError."""
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) > 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise MisuseError(f"--imgsz {text!r}; wanted H or H,W in pixels, for instance 256 or 224,384")
    sizes = [int(part) for part in parts]
    return sizes[0], sizes[-1]


def parse_gib(value: float | None) -> int | None:
    """GiB -> bytes. Raises MisuseError for a negative or infinite value."""
    if value is not None and not 0 <= value < float("inf"):
        raise MisuseError(f"--weight-budget is {value}; wanted GiB, 0 or more")
    return None if value is None else round(value * 2**30)


def parse_list(text: str, option: str, known: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """`cls,patch` -> ("cls", "patch"). Raises MisuseError for an empty, repeated or unknown name."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if not name or names.count(name) > 1 or (known is not None and name not in known):
            of = f" of {', '.join(known)}" if known else ""
            raise MisuseError(f"{option} {text!r}: {name!r} does not fit; wanted distinct names{of}")
    return names
