"""`dinodeploy visualize`: patch features, attention and similarity as images, a page or a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from dinodeploy.cli.output import DEVICE_HELP, note, print_json, stderr
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.hardware.packages import reach
from dinodeploy.images.open import open_image
from dinodeploy.images.paths import list_images
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.progress import image_progress
from dinodeploy.visualize.look import Attend, steps_for
from dinodeploy.visualize.maps import WHAT, MapOptions
from dinodeploy.visualize.video import VIDEO_SUFFIXES, check_video, visualize_video
from dinodeploy.visualize.write import check_output
from dinodeploy.visualize.write import visualize as write_maps

PARTIAL = 5


def visualize(
    images: Annotated[list[str], Argument(help="Images, folders, globs, or one video.", metavar="IMAGES...")],
    engine: Annotated[Path, Option(help="A bundle, or an engine file inside one.")],
    what: Annotated[str, Option(help=f"{', '.join(WHAT)}.")] = "pca",
    out: Annotated[
        Path | None, Option(help="Directory for the maps, or the video file. Default: visualized.")
    ] = None,
    html: Annotated[
        Path | None, Option(help="Also write an interactive HTML page: blend maps, click patches.")
    ] = None,
    imgsz: Annotated[
        int | None, Option(help="Short side in pixels; larger gives finer maps. Default: 512.")
    ] = None,
    point: Annotated[
        str | None,
        Option(help="X,Y in pixels of the first image: similarity to this patch. Default: the centre."),
    ] = None,
    mask: Annotated[
        str | None,
        Option(help="Foreground: auto (first component), or a folder of masks NAME.png to learn from."),
    ] = None,
    checkpoint: Annotated[
        Path | None, Option(help="Compute attention with the reference model of this checkpoint.")
    ] = None,
    layer: Annotated[int, Option(help="Block to show attention of, with --checkpoint. -1: last.")] = -1,
    device: Annotated[str, Option(help=DEVICE_HELP)] = "auto",
    threads: Annotated[int | None, Option(help="Threads per engine call.")] = None,
    allow_unverified: Annotated[
        bool, Option("--allow-unverified", help="Use an engine without a passing parity receipt.")
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace existing maps.")] = False,
    as_json: Annotated[bool, Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Draw patch features: PCA colours, attention, similarity to a point, foreground."""
    if what not in WHAT:
        raise MisuseError(f"--what {what!r} is unknown; known: {', '.join(WHAT)}")
    for option, value in (("--imgsz", imgsz), ("--threads", threads)):
        if value is not None and value < 1:
            raise MisuseError(f"{option} is {value}; wanted at least 1")
    _refuse_ignored(what, point, mask, checkpoint)
    is_video = len(images) == 1 and images[0].lower().endswith(VIDEO_SUFFIXES)
    if is_video:
        target = check_video(Path(images[0]), what, out, html, overwrite)
        ids = images
    else:
        target = out or Path("visualized")
        check_output(target, html, overwrite)
        ids = list_images(images)
    with Embedder.open(engine, device=device, allow_unverified=allow_unverified, threads=threads) as embedder:
        note(device, embedder.choice)
        steps = steps_for(embedder, imgsz)
        attend = _attend(checkpoint, layer)
        if is_video:
            facts = _paint_video(embedder, images[0], what, target, steps, _pixels(point), mask, attend)
        else:
            options = MapOptions(_share(_pixels(point), ids[0]), mask)
            facts = _paint_images(embedder, ids, what, target, html, steps, options, attend, overwrite)
    _report(facts, as_json)
    if facts["skipped"]:
        raise typer.Exit(PARTIAL)


def _paint_video(
    embedder: Embedder,
    source: str,
    what: str,
    target: Path,
    steps: Preprocess,
    point: tuple[float, float] | None,
    mask: str | None,
    attend: Attend | None,
) -> dict[str, Any]:
    with image_progress(0) as advance:
        frames, words = visualize_video(
            embedder,
            Path(source),
            what,
            target,
            steps=steps,
            point=point,
            options=MapOptions(mask=mask),
            attend=attend,
            advance=advance,
        )
    return {"out": str(target), "what": what, "frames": frames, "skipped": [], "shows": words}


def _paint_images(
    embedder: Embedder,
    ids: list[str],
    what: str,
    target: Path,
    page: Path | None,
    steps: Preprocess,
    options: MapOptions,
    attend: Attend | None,
    overwrite: bool,
) -> dict[str, Any]:
    with image_progress(len(ids)) as advance:
        written = write_maps(
            embedder,
            ids,
            what,
            target,
            steps=steps,
            page=page,
            options=options,
            attend=attend,
            overwrite=overwrite,
            advance=advance,
        )
    return {
        "out": str(target),
        "page": str(page) if page else None,
        "what": what,
        "pictures": len(written.files),
        "files": written.files,
        "skipped": list(written.skipped),
        "shows": written.words,
    }


def _refuse_ignored(what: str, point: str | None, mask: str | None, checkpoint: Path | None) -> None:
    """Refuse options that this `--what` would ignore. Raises MisuseError."""
    for option, given, serves in (
        ("--point", point, ("similarity",)),
        ("--mask", mask, ("pca", "foreground")),
        ("--checkpoint", checkpoint, ("attention",)),
    ):
        if given is not None and what not in serves:
            raise MisuseError(f"{option} belongs to --what {' or '.join(serves)}, not {what}")


def _pixels(point: str | None) -> tuple[float, float] | None:
    if point is None:
        return None
    parts = point.split(",")
    if len(parts) != 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise MisuseError(f"--point {point!r}; wanted X,Y in pixels, for instance 320,200")
    return float(parts[0]), float(parts[1])


def _share(point: tuple[float, float] | None, first: str) -> tuple[float, float]:
    """Pixels of the first image -> shares of its width and height. Raises MisuseError outside the image."""
    if point is None:
        return 0.5, 0.5
    width, height = open_image(first).size
    if point[0] >= width or point[1] >= height:
        raise MisuseError(
            f"--point {point[0]:g},{point[1]:g} is outside {first}, which is {width}x{height} pixels"
        )
    return point[0] / width, point[1] / height


def _attend(checkpoint: Path | None, layer: int) -> Attend | None:
    if checkpoint is None:
        if layer != -1:
            raise MisuseError("--layer needs --checkpoint: a bundle has only the attention of the last block")
        return None
    attend: Attend = reach("exporters.attention_maps", "--checkpoint").reference_attention(checkpoint, layer)
    return attend


def _report(facts: dict[str, Any], as_json: bool) -> None:
    for reason in facts["skipped"]:
        stderr().print(f"skipped: {reason}", markup=False)
    if as_json:
        print_json(facts)
        return
    count = f"{facts['pictures']} images" if "pictures" in facts else f"{facts['frames']} frames"
    print(f"{facts['out']}: {facts['what']} of {count}; {facts['shows']}")
    if facts.get("page"):
        print(f"page: {facts['page']}; open it in a browser")
    elif "pictures" in facts:
        print("next: add --html page.html to blend maps and click patches")
