"""What every command shares: results on stdout, everything else on stderr, and options read from text.

`model.pyz` uses it too, where neither typer nor rich is installed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from dinodeploy.errors import MisuseError, one_line, reason_of
from dinodeploy.hardware import signals
from dinodeploy.pipeline.progress import stderr as stderr  # commands import it from here

if TYPE_CHECKING:
    from rich.console import Console

    from dinodeploy.bundle.bundle import Bundle
    from dinodeploy.parity.reports import Report
    from dinodeploy.sources.folders import Skipped

# exit codes of the command line; 3, failed export, comes from ExportError
FAILED, MISUSE, CANNOT, PARTIAL, INTERRUPTED = 1, 2, 4, 5, 130
DEVICE_HELP = "Device: auto, cpu, onnxruntime, openvino, cuda or tensorrt. auto: the best that runs here."
REQUIRE_SIGNATURE_HELP = "Public key file (PEM). Refuse a bundle that is not signed with it as a whole."
WEIGHT_BUDGET_HELP = (
    "GiB of weights that a weight-streaming plan keeps on the GPU. Default: TensorRT's choice."
)


def stdout() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; an error becomes one line on stderr and its code.

    After Ctrl-C or another signal the code is 128 + its number, whatever other packages made of it.
    """
    try:
        code = command()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or signals.received():
            return signals.report()
        return _explain(error)
    return signals.report() if signals.received() or code == INTERRUPTED else code


def _explain(error: BaseException) -> int:
    """The exit code of an error, and its line on stderr. Raises it again if it is a bug in dinodeploy."""
    if isinstance(error, BrokenPipeError):
        # stdout was closed (for example by `head`); suppress the second BrokenPipeError at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError):
        where = error.filename or "system"
        return fail(f"{where}: {reason_of(error)}; nothing half-written was left", CANNOT)
    if hasattr(error, "format_message"):  # usage errors of click, which typer may bundle
        return fail(error.format_message(), MISUSE)
    if isinstance(error, Exception) and hasattr(error, "exit_code"):
        return fail(str(error), error.exit_code)
    raise error


def fail(message: str, code: int) -> int:
    """Print one line on stderr; return `code`."""
    print("error: " + " ".join(one_line(message).split()), file=sys.stderr)
    return code


def note(topic: str, text: str) -> None:
    """A line on stderr that is not an error: [topic] text."""
    # not through rich, which reads brackets as markup; in one piece, so that a signal leaves no half line
    sys.stderr.write(f"[{topic}] {text}\n")


def note_skipped(skipped: Skipped) -> None:
    """A line on stderr about the files that folders hold and that are not read, if there are any."""
    from dinodeploy.sources.counts import skipped_note

    if skipped:
        note("sources", skipped_note(skipped))


def print_notes(notes: Iterable[str], label: str = "note") -> None:
    for text in notes:
        stderr().print(f"{label}: {text}", markup=False)


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


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """The manifest and the receipts of a bundle, verified, as `inspect --json` prints them."""
    from dinodeploy.files import schema
    from dinodeploy.parity.receipts import read_receipts

    bundle.verify()
    receipts = [
        {"engine": r.engine, "runtime": r.runtime, "device": r.device, "passed": r.holds()}
        for r in read_receipts(bundle)
    ]
    return {"kind": "bundle", **schema.dump(bundle.manifest), "receipts": receipts}


def verdict_line(found: Report) -> str:
    """The last line of `check`."""
    verdict, receipt = found.verdict, found.receipt
    word = "passed" if verdict.passed else f"FAILED, {len(verdict.failures)} measurements"
    return f"{found.engine.named}, {verdict.recipe}, {receipt.runtime}, {receipt.device}: {word}"
