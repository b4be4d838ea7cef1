"""`dinodeploy dedupe`: find near-duplicate images."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dinodeploy.cli.output import note, print_json, say
from dinodeploy.errors import MisuseError, printable
from dinodeploy.files.atomic import atomic_file
from dinodeploy.pipeline.progress import image_progress
from dinodeploy.search.duplicates import THRESHOLD, Duplicates, find_duplicates
from dinodeploy.search.sheets import check_sheet, duplicates_sheet
from dinodeploy.store.reader import open_embeddings

SHOWN = 20  # groups that are printed


def dedupe(
    out: Annotated[
        Path, Argument(help="Embeddings (from `dinodeploy embed`); no index needed.", metavar="OUT")
    ],
    threshold: Annotated[
        float, Option(help="Cosine similarity from which two images are duplicates.")
    ] = THRESHOLD,
    output: Annotated[str, Option(help="Output to compare: cls, pooled, mean_patch.")] = "cls",
    write: Annotated[
        Path | None, Option(help="Write the ids to drop: .txt (one per line) or .json (a list).")
    ] = None,
    html: Annotated[
        Path | None,
        Option(help="Write an HTML page with the images: choose what to keep, save the rest as a list."),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find groups of near-duplicates and the largest image of each. No image file is removed."""
    check_sheet(html)
    _check_list(write)
    with image_progress(open_embeddings(out).manifest.count) as advance:
        found = find_duplicates(out, threshold=threshold, output=output, advance=advance)
    if write is not None:
        text = _as_list(write, found.drop)
        with atomic_file(write) as file:
            file.write(text.encode())
    if html is not None:
        page = duplicates_sheet(out.resolve().name, found)
        with atomic_file(html) as file:
            file.write(page.encode())
    _print(out, found, write, html, as_json)


def _check_list(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix not in (".txt", ".json"):
        raise MisuseError(f"--write {path}: wanted a file that ends in .txt or .json")
    if path.is_dir() or not path.parent.is_dir():
        raise MisuseError(f"--write {path}: wanted a file in an existing folder")


def _as_list(path: Path, ids: list[str]) -> str:
    if path.suffix == ".json":
        return json.dumps(ids, indent=2) + "\n"
    for id_ in ids:
        if id_.splitlines() != [id_] or id_.encode(errors="replace").decode() != id_:
            raise MisuseError(
                f"--write {path}: {id_!r} does not fit on one line; wanted a file that ends in .json"
            )
    return "".join(f"{id_}\n" for id_ in ids)


def _print(out: Path, found: Duplicates, write: Path | None, html: Path | None, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(found), "drop": found.drop})
        return
    if found.left_out:
        note("dedupe", f"{found.left_out} rows are zero vectors and are left out")
    for number, group in enumerate(found.groups[:SHOWN], 1):
        say(f"group {number}:")
        for place, member in enumerate(group):
            word = "drop" if place else "keep"
            copy = "  exact copy" if member.copy else ""
            size = f"{member.width}x{member.height}"
            say(f"  {word}  {member.cosine:.4f}  {size:>11}  {printable(member.id)}{copy}")
    if len(found.groups) > SHOWN:
        say(f"and {len(found.groups) - SHOWN} more groups")
    say(
        f"{out}: {len(found.groups)} groups at a cosine of {found.threshold:g} or more; "
        f"{len(found.drop)} of {found.rows} images can be dropped"
    )
    for path, what in (
        (write, "the ids to drop"),
        (html, "the groups with images; choose there what to keep, and save the list of the rest"),
    ):
        if path is not None:
            say(f"{path}: {what}")
    if found.groups and html is None:
        say(f"next: dinodeploy dedupe {shlex.quote(str(out))} --html duplicates.html --write drop.txt")
