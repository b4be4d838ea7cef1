"""What every command shares: results on stdout, everything else on stderr, and options read from text.

`model.pyz` uses it too, where neither typer nor rich is installed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from dinodeploy.cli.streams import open_streams, output_failure
from dinodeploy.errors import MisuseError, one_line, printable, reason_of
from dinodeploy.hardware import signals

if TYPE_CHECKING:
    from rich.console import Console

    from dinodeploy.bundle.bundle import Bundle
    from dinodeploy.parity.reports import Report
    from dinodeploy.sources.folders import Skipped

# exit codes of the command line; 3, failed export, comes from ExportError
FAILED, MISUSE, CANNOT, PARTIAL, INTERRUPTED = 1, 2, 4, 5, 130
_TABLE_WIDTH = 80  # columns, at least
DEVICE_HELP = "Device: auto, cpu, onnxruntime, openvino, cuda or tensorrt. auto: the best that runs here."
REQUIRE_SIGNATURE_HELP = "Public key file (PEM). Refuse a bundle that is not signed with it as a whole."
WEIGHT_BUDGET_HELP = (
    "GiB of weights that a weight-streaming plan keeps on the GPU. Default: TensorRT's choice."
)


def stdout() -> Console:
    """For tables: at least as wide as their content, which a narrow terminal wraps; nothing is cut off."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, _TABLE_WIDTH)
    return console


def say(text: object = "", *, flush: bool = False) -> None:
    """A line of the result, on stdout. flush: now, because the command continues."""
    print(_visible(str(text)), flush=flush)


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; an error becomes one line on stderr and its code.

    After Ctrl-C or another signal the code is 128 + its number, whatever other packages made of it. If stdout
    cannot be written, because its disk is full, the code is 4; a reader that closed the pipe changes nothing.
    """
    open_streams()
    code = _run(command)
    failure = output_failure()
    if failure is not None and code == 0:
        return fail(f"standard output: {reason_of(failure)}; the command itself has succeeded", CANNOT)
    return code


def _run(command: Callable[[], int]) -> int:
    try:
        code = command()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or signals.received():
            return signals.report()
        return _explain(error)
    return signals.report() if signals.received() or code == INTERRUPTED else code


def _explain(error: BaseException) -> int:
    """The exit code of an error, and its line on stderr. Raises it again if it is a bug in dinodeploy."""
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
    log("error: " + " ".join(one_line(message).split()))
    return code


def _visible(text: str) -> str:
    """Lines with their control characters as escapes: names of files may hold what steers a terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def log(text: str) -> None:
    """A line on stderr."""
    if sys.stderr is not None:
        # not through rich, which reads brackets as markup; in one piece, so that a signal leaves no half line
        sys.stderr.write(f"{_visible(text)}\n")


def note(topic: str, text: str) -> None:
    """A line on stderr that is not an error: [topic] text."""
    log(f"[{topic}] {text}")


def note_skipped(skipped: Skipped) -> None:
    """A line on stderr about the files that folders hold and that are not read, if there are any."""
    from dinodeploy.sources.counts import skipped_note

    if skipped:
        note("sources", skipped_note(skipped))


def print_notes(notes: Iterable[str], label: str = "note") -> None:
    for text in notes:
        log(f"{label}: {text}")


def print_json(data: Any) -> None:
    """One document in ASCII, so that every encoding of stdout can carry it."""
    say(json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False))


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
    """The manifest and the receipts of a bundle, verified, as `inspect --json` prints them.

    Of the hub, what was fetched is verified.
    """
    from dinodeploy.files import schema
    from dinodeploy.parity.receipts import read_receipts

    bundle.verify(bundle.present())
    receipts = [
        {"engine": r.engine, "runtime": r.runtime, "device": r.device, "passed": r.holds(bundle.manifest)}
        for r in read_receipts(bundle)
    ]
    where = {} if bundle.hub is None else {"source": bundle.named}
    return {"kind": "bundle", **where, **schema.dump(bundle.manifest), "receipts": receipts}


def verdict_line(found: Report) -> str:
    """The last line of `check`."""
    verdict, receipt = found.verdict, found.receipt
    word = "passed" if verdict.passed else f"FAILED, {len(verdict.failures)} measurements"
    return f"{found.engine.named}, {verdict.recipe}, {receipt.runtime}, {receipt.device}: {word}"
