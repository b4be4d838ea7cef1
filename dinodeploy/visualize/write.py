"""Run the engine on images and write their maps: PNG files in one directory, and an HTML page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.embedder import Embedder
from dinodeploy.errors import ImageError, MisuseError, OutputExistsError
from dinodeploy.files.atomic import atomic_directory, atomic_file
from dinodeploy.files.names import UniqueNames, safe_stem
from dinodeploy.files.owned import first_foreign
from dinodeploy.files.paths import native_path
from dinodeploy.files.system_files import is_free
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pages import check_pages
from dinodeploy.visualize.drawn import draw_layer
from dinodeploy.visualize.look import Attend, Look, look_at, need_attention
from dinodeploy.visualize.maps import Layers, MapOptions, fit_painter
from dinodeploy.visualize.page import render_maps

SUMMARY = "visualize.json"  # marks our directories: --overwrite replaces no others
# Maps, the page if it lies among them, and the summary.
_WRITTEN = re.compile(
    rf"{SUMMARY}|[^/]+\.(pca|attention|similarity|foreground)(\.[^/]+)?\.png|(.*/)?[^/]+\.html", re.DOTALL
)
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What was written: `files` by image, and in `skipped` why an image could not be read."""

    files: dict[str, list[str]]
    skipped: tuple[str, ...]
    words: str  # what the maps show


def check_output(out: Path, page: Path | None, overwrite: bool) -> None:
    """Check the paths before any work is done.

    Raises OutputExistsError, MisuseError for a page that is a folder, UnavailableError without Jinja2.
    """
    if not is_free(out):
        if not (out / SUMMARY).is_file():
            raise OutputExistsError(f"{out} exists and holds no maps; choose another --out")
        if foreign := first_foreign(out, _WRITTEN.fullmatch):
            raise OutputExistsError(
                f"{out} also holds {foreign!r}, so it is not replaced; move it, or choose another --out"
            )
        if not overwrite:
            raise OutputExistsError(f"{out} already holds maps; use --overwrite or another --out")
    if page is not None and page.is_dir():
        raise MisuseError(
            f"--html {str(page)!r} is a folder; wanted a file, for instance {page / 'page.html'}"
        )
    if page is not None and page.exists() and not overwrite:
        raise OutputExistsError(f"{page} exists; use --overwrite or another --html")
    if page is not None:
        check_pages()


def visualize(
    embedder: Embedder,
    ids: Sequence[str],
    what: str,
    out: Path,
    *,
    steps: Preprocess,
    page: Path | None = None,
    options: MapOptions | None = None,
    attend: Attend | None = None,
    overwrite: bool = False,
    limits: ImageLimits = DEFAULT_LIMITS,
    advance: Advance = lambda done, failed: None,
) -> Written:
    """Write a map of every readable image into `out`, and all of them into `page`.

    limits: of one image. The features of all images are in memory together, since they share one basis.
    Raises MisuseError where no image can be read, and as `fit_painter`; nothing is written then.
    """
    check_output(out, page, overwrite)
    if what == "attention":
        need_attention(embedder, attend)
    looks: list[Look] = []
    skipped: list[str] = []
    for id_ in ids:
        try:
            image = open_image(native_path(id_), limits=limits)
        except ImageError as error:
            skipped.append(str(error))
        else:
            looks.append(look_at(embedder, image, id_, steps, attend if what == "attention" else None))
        advance(len(looks), len(skipped))
    if not looks:
        raise MisuseError(f"none of {len(ids)} images can be read; the first: {skipped[0]}")
    painter, words = fit_painter(what, looks, options or MapOptions())
    maps = [painter(look) for look in looks]
    with atomic_directory(out) as staging:
        files = _save(staging, what, looks, maps)
        summary = {"what": what, "shows": words, "files": files, "skipped": skipped}
        text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        (staging / SUMMARY).write_bytes(text.encode("utf-8", "backslashreplace"))  # as JSON escapes: \\udce9
        if page is not None:
            model = embedder.manifest.model
            text = render_maps(what, looks, maps, words, f"{model.arch}, weights {model.weights}")
            _save_page(text, page, out, staging)
    return Written(files, tuple(skipped), words)


def _save_page(text: str, page: Path, out: Path, staging: Path) -> None:
    """Write the page, into `staging` if it belongs into `out`, which is about to be replaced."""
    if out.resolve() in page.resolve().parents:
        page = staging / page.resolve().relative_to(out.resolve())
    page.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(page) as file:
        file.write(text.encode())


def _save(root: Path, what: str, looks: Sequence[Look], maps: Sequence[Layers]) -> dict[str, list[str]]:
    """PNG files of each image's layers, in the size the image is shown."""
    files: dict[str, list[str]] = {}
    names = UniqueNames([SUMMARY])
    for look, layers in zip(looks, maps, strict=True):
        parts = ["", *(f".{layer.name.replace(' ', '_')}" for layer in layers[1:])]
        endings = [f".{what}{part}.png" for part in parts]
        stem = names.claim(safe_stem(look.id), endings)  # two folders may hold the same name
        for ending, layer in zip(endings, layers, strict=True):
            draw_layer(layer, look.image.size).save(root / f"{stem}{ending}")
        files[look.id] = [f"{stem}{ending}" for ending in endings]
    return files
