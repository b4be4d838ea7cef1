"""Command line of `model.pyz`, on argparse: embed, check, inspect and doctor for the bundle inside the file.

It needs neither typer nor rich. Options, exit codes and one-line errors are those of `dinodeploy`; the other
commands need an installed dinodeploy.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import shutil
import sys
import time
import warnings
import zipfile
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from PIL.Image import DecompressionBombWarning

from dinodeploy import __version__
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.archive import unpack
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.cli import output
from dinodeploy.errors import DinodeployError, MisuseError
from dinodeploy.files.cache import cache_dir
from dinodeploy.files.json_file import KINDS
from dinodeploy.files.regular import is_regular
from dinodeploy.files.unfinished.private import PrivateFolder
from dinodeploy.standalone import BUNDLE_PREFIX


def main() -> int:
    """Run the command in sys.argv. Returns its exit code."""
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)  # our own pixel limit applies
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of EXIF that is damaged
    return run(sys.argv[1:], Path(sys.argv[0]).resolve())


def run(arguments: Sequence[str], archive: Path) -> int:
    """Run a command on the bundle inside `archive`. Errors become one line on stderr and an exit code."""

    def command() -> int:
        given = vars(_parser(archive.name).parse_args(arguments))
        function = given.pop("command")
        return int(function(unpack_inner(archive), given.pop("json"), given))

    return output.run_command(command)


def unpack_inner(archive: Path) -> Path:
    """The bundle of `archive` as a directory in the cache; a complete one from an earlier run is used again.

    The same bundle with another signature is another directory. Without a writable cache it is a temporary
    one, removed at exit.
    """
    with zipfile.ZipFile(archive) as file:
        names = {
            name.removeprefix(BUNDLE_PREFIX) for name in file.namelist() if name.startswith(BUNDLE_PREFIX)
        }
        with file.open(f"{BUNDLE_PREFIX}{manifests.FILE_NAME}") as entry:
            content = entry.read(KINDS["manifest"].bytes + 1)
        folder = manifests.parse_manifest(content, str(archive)).digest
        if manifests.SIGNATURE_FILE in names:
            signature = file.read(f"{BUNDLE_PREFIX}{manifests.SIGNATURE_FILE}")
            folder += f"-{hashlib.sha256(signature).hexdigest()[:16]}"
    try:
        kept = cache_dir("standalone") / folder
        if _is_complete(kept, names):
            return kept
        if not is_regular(kept / manifests.FILE_NAME):
            shutil.rmtree(kept, ignore_errors=True)
        return unpack(archive, kept, overwrite=True, prefix=BUNDLE_PREFIX)  # another process may do the same
    except OSError:  # the cache is not writable
        temporary = PrivateFolder("the bundle of this file")
        atexit.register(temporary.remove)
        return unpack(archive, temporary.path / "bundle", prefix=BUNDLE_PREFIX)


def _is_complete(root: Path, names: Collection[str]) -> bool:
    """Whether every file exists with its size. Hashes are verified when an engine is opened."""
    try:
        files = manifests.read_manifest(root).files
        sizes = {name: (root / name).lstat().st_size for name in names}
    except (DinodeployError, OSError):
        return False
    return all(name not in files or sizes[name] == files[name].bytes for name in names)


def _embed(bundle: Path, as_json: bool, given: dict[str, Any]) -> int:
    from dinodeploy.api import embed

    report = embed(given.pop("images"), engine=bundle, progress=True, log=output.log, **given)
    if as_json:
        output.print_json(report.as_json())
    else:
        output.say(f"{report.out}: {report.embedded} images embedded, {report.rate:.1f}/s")
        output.say(report.counts.line())
    if report.quarantined:
        output.log(f"{report.quarantined} images quarantined; reasons in {report.out}/quarantine.jsonl")
    return output.PARTIAL if report.quarantined else 0


def _check(bundle: Path, as_json: bool, given: dict[str, Any]) -> int:
    from dinodeploy.parity.check import check_bundle
    from dinodeploy.parity.reports import Report

    started, clock = datetime.now(timezone.utc), time.perf_counter()
    engine, receipt, verdict = check_bundle(bundle, log=output.log, **given)
    report = Report(engine, receipt, verdict, None, None, started, time.perf_counter() - clock)
    if as_json:
        output.print_json(report.as_json())
    else:
        for f in verdict.failures:
            output.say(f"{f.case}, {f.output}: {f.metric} {f.value}, limit {f.limit}")
        output.say(output.verdict_line(report))
    return 0 if report.passed else output.FAILED


def _inspect(bundle: Path, as_json: bool, given: dict[str, Any]) -> int:
    facts = output.bundle_facts(open_bundle(bundle, **given))
    if as_json:
        output.print_json(facts)
    else:
        for name, value in facts.items():
            output.say(f"{name}: {json.dumps(value, ensure_ascii=False)}")
    return 0


def _doctor(bundle: Path, as_json: bool, given: dict[str, Any]) -> int:
    from dinodeploy.doctor import examine, report_lines

    diagnosis = examine(bundle, **given)
    if as_json:
        output.print_json(diagnosis.as_json())
    else:
        output.say("\n".join(report_lines(diagnosis)))
    return 0 if diagnosis.fine else output.CANNOT


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise MisuseError(f"{message}; see {self.prog} --help")


def _parser(name: str) -> argparse.ArgumentParser:
    """Options that are not given are left out, so that the defaults are those of the called functions."""
    settings: dict[str, Any] = {"allow_abbrev": False, "argument_default": argparse.SUPPRESS}
    parser = _Parser(name, description="A DINOv3 bundle with its runtime in one file.", **settings)
    parser.add_argument("--version", action="version", version=f"dinodeploy {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command, help in (
        (_embed, "Embed images into a store on disk."),
        (_check, "Judge the engine on this machine. Exit code 0 or 1."),
        (_inspect, "Print model, preprocessing, outputs, files and receipts."),
        (_doctor, "Examine this machine and print problems with their fixes. Exit code 0 or 4."),
    ):
        one = commands.add_parser(command.__name__[1:], help=help, description=help, **settings)
        one.set_defaults(command=command)
        one.add_argument("--json", action="store_true", default=False, help="Print the result as JSON.")
        one.add_argument(
            "--require-signature", type=Path, metavar="KEY.pub", help=output.REQUIRE_SIGNATURE_HELP
        )
        if command in (_embed, _check):
            _add_engine_options(one)
        if command is _embed:
            _add_embed_options(one)
    return parser


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", help="auto, cpu, onnxruntime, openvino, cuda or tensorrt. Default: the best available.")
    add("--threads", type=int, help="Engine threads.")


def _add_embed_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGES", help="Files, folders, globs, lists, tables, archives, videos.")
    add("--out", type=Path, help="Store to write or to resume. Default: embeddings.")
    add(
        "--outputs",
        type=partial(output.parse_list, option="--outputs"),
        help="cls, storage, patch, layer_<i>, mean_patch, pooled. Default: cls.",
    )
    add("--imgsz", type=output.parse_size, help="Input size H or H,W in pixels. Default: the bundle's.")
    add("--preprocess", help="Preprocessing preset. Default: the bundle's.")
    add("--keep-aspect", action="store_true", help="Keep the aspect ratio; the short side becomes --imgsz.")
    add("--max-patches", type=int, help="With --keep-aspect: shrink larger images to this many patches.")
    add("--fast-jpeg", action="store_true", help="Decode very large JPEGs at half their size.")
    add("--format", help="npy, parquet, lance, npz or safetensors. Default: npy.")
    add("--dtype", help="On-disk dtype: fp32, fp16 or int8. Default: fp32.")
    add("--shard-size", type=int, help="Images per file.")
    add("--shards", help="i/n: process the i-th of n parts.")
    add("--batch", type=_batch, help='Images per batch. Default: "auto", measured.')
    add("--workers", type=int, help="Decoding threads. Default: one per core.")
    add("--time-limit", type=float, help="Seconds after which an image counts as unreadable.")
    add("--max-pixels", type=int, help="Maximum pixels per image.")
    add("--column", help="Of a table: the column of images or paths.")
    add("--id-column", help="Of a table: the column of ids.")
    add("--every", type=int, help="Of a video: embed every n-th frame.")
    add("--allow-unverified", action="store_true", help="Use an engine without a parity receipt.")
    add("--overwrite", action="store_true", help="Delete the embeddings at --out and start again.")


def _batch(text: str) -> int | str:
    if text != "auto" and not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r}; wanted auto, or a number of at least 1")
    return text if text == "auto" else int(text)
