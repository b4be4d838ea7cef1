"""Look at pictures, and write their maps: PNG files in one directory, and a page."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.embedder import Embedder
from dinodeploy.errors import ImageError, MisuseError, OutputExistsError
from dinodeploy.files.atomic import atomic_file, begin_directory, commit_directory
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.visualize.colour import enlarge
from dinodeploy.visualize.look import Attend, Look, look_at, need_attention
from dinodeploy.visualize.maps import Layers, Wishes, fit_painter
from dinodeploy.visualize.page import render_page

SUMMARY = "visualize.json"  # tells our directories from others, which --overwrite may not touch
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What was made. `files` by picture; `skipped` says why a picture could not be read."""

    files: dict[str, list[str]]
    skipped: tuple[str, ...]
    words: str  # what the maps show


def check_output(out: Path, page: Path | None, overwrite: bool) -> None:
    """Raises OutputExistsError before anything is computed."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not (out / SUMMARY).is_file():
            raise OutputExistsError(f"{out} exists and holds no maps; choose another --out")
        if not overwrite:
            raise OutputExistsError(f"{out} holds maps already; give --overwrite or another --out")
    if page is not None and page.is_dir():
        raise MisuseError(
            f"--html {str(page)!r} is a folder; wanted a file, for instance {page / 'page.html'}"
        )
    if page is not None and page.exists() and not overwrite:
        raise OutputExistsError(f"{page} exists; give --overwrite or another --html")


def visualize(
    embedder: Embedder,
    ids: Sequence[str],
    what: str,
    out: Path,
    *,
    steps: Preprocess,
    page: Path | None = None,
    wishes: Wishes | None = None,
    attend: Attend | None = None,
    overwrite: bool = False,
    advance: Advance = lambda done, failed: None,
) -> Written:
    """Write a map of every readable picture into `out`, and all of them into `page`.

    Features of all pictures are in memory at once: a basis in common needs them. Raises MisuseError where
    no picture can be read, and as `fit_painter`; then nothing is written.
    """
    check_output(out, page, overwrite)
    if what == "attention":
        need_attention(embedder, attend)
    looks, skipped = _look_at_all(embedder, ids, steps, attend if what == "attention" else None, advance)
    painter, words = fit_painter(what, looks, wishes or Wishes())
    maps = [painter(look) for look in looks]
    staging = begin_directory(out)
    try:
        files = _save(staging, what, looks, maps)
        summary = {"what": what, "shows": words, "files": files, "skipped": skipped}
        (staging / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if page is not None:
            model = embedder.manifest.model
            text = render_page(what, looks, maps, words, f"{model.arch}, weights {model.weights}")
            _save_page(text, page, out, staging)
        commit_directory(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Written(files, tuple(skipped), words)


def _look_at_all(
    embedder: Embedder, ids: Sequence[str], steps: Preprocess, attend: Attend | None, advance: Advance
) -> tuple[list[Look], list[str]]:
    looks: list[Look] = []
    skipped: list[str] = []
    for id_ in ids:
        try:
            picture = open_image(id_)
        except ImageError as error:
            skipped.append(str(error))
        else:
            looks.append(look_at(embedder, picture, id_, steps, attend))
        advance(len(looks), len(skipped))
    if not looks:
        raise MisuseError(f"none of {len(ids)} pictures can be read; the first: {skipped[0]}")
    return looks, skipped


def _save_page(text: str, page: Path, out: Path, staging: Path) -> None:
    """Into `staging` where the page belongs into `out`, which is about to be replaced."""
    if out.resolve() in page.resolve().parents:
        page = staging / page.resolve().relative_to(out.resolve())
    page.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(page) as file:
        file.write(text.encode())


def _save(root: Path, what: str, looks: Sequence[Look], maps: Sequence[Layers]) -> dict[str, list[str]]:
    """PNG files of each picture's layers, as large as the picture is shown."""
    files: dict[str, list[str]] = {}
    seen: Counter[str] = Counter()
    for look, layers in zip(looks, maps, strict=True):
        stem = Path(look.id).stem
        seen[stem] += 1
        unique = stem if seen[stem] == 1 else f"{stem}~{seen[stem]}"  # two folders may hold one name
        files[look.id] = []
        for index, (name, colours) in enumerate(layers):
            part = "" if index == 0 else f".{name.replace(' ', '_')}"
            file = f"{unique}.{what}{part}.png"
            enlarge(colours, look.picture.size, smooth=what != "foreground").save(root / file)
            files[look.id].append(file)
    return files
