"""`dinodeploy visualize`: patch features, attention and similarity as images, a page or a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from dinodeploy.cli.options import MaxPixels, RequireSignature
from dinodeploy.cli.output import DEVICE_HELP, PARTIAL, note, note_skipped, print_json, print_notes, say
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.files.paths import native_path
from dinodeploy.hardware.packages import reach
from dinodeploy.images.limits import ImageLimits
from dinodeploy.images.open import open_reduced, whole
from dinodeploy.pipeline.progress import image_progress
from dinodeploy.sources.counts import Counts
from dinodeploy.sources.folders import find_images, total_of
from dinodeploy.visualize.look import Attend, steps_for
from dinodeploy.visualize.maps import WHAT, MapOptions
from dinodeploy.visualize.video import VIDEO_SUFFIXES, check_video, visualize_video
from dinodeploy.visualize.write import check_output
from dinodeploy.visualize.write import visualize as write_maps


def visualize(
    images: Annotated[list[str], Argument(help="Images, folders, globs, or one video.", metavar="IMAGES...")],
    engine: Annotated[Path, Option(help="A bundle, an engine file inside one, or hf://ORG/NAME.")],
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
    max_pixels: MaxPixels = None,
    require_signature: RequireSignature = None,
    allow_unverified: Annotated[
        bool, Option("--allow-unverified", help="Use an engine without a passing parity receipt.")
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace existing maps.")] = False,
    as_json: Annotated[bool, Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Draw patch features: PCA colours, attention, similarity to a point, foreground."""
    _refuse_ignored(what, point, mask, checkpoint)
    limits = ImageLimits.of(max_pixels)
    for option, value in (("--imgsz", imgsz), ("--threads", threads)):
        if value is not None and value < 1:
            raise MisuseError(f"{option} is {value}; wanted at least 1")
    is_video = len(images) == 1 and images[0].lower().endswith(VIDEO_SUFFIXES)
    if is_video:
        target = check_video(Path(images[0]), what, out, html, overwrite)
    else:
        target = out or Path("visualized")
        check_output(target, html, overwrite)
        found = find_images(images)
        images = found.ids
    with Embedder.open(
        engine,
        device=device,
        require_signature=require_signature,
        allow_unverified=allow_unverified,
        threads=threads,
    ) as embedder:
        note(device, embedder.choice)
        pixels = _pixels(point)
        how: dict[str, Any] = {"steps": steps_for(embedder, imgsz), "attend": _attend(checkpoint, layer)}
        facts: dict[str, Any] = {"out": str(target), "what": what}
        if is_video:
            how["options"] = MapOptions(mask=mask)
            with image_progress(0) as advance:
                facts["frames"], facts["shows"] = visualize_video(
                    embedder, Path(images[0]), what, target, point=pixels, advance=advance, **how
                )
            facts["skipped"] = []
        else:
            how["limits"] = limits
            how["options"] = MapOptions(_share(pixels, images[0], limits), mask)
            with image_progress(len(images)) as advance:
                written = write_maps(
                    embedder, images, what, target, page=html, overwrite=overwrite, advance=advance, **how
                )
            facts |= {"page": str(html) if html else None, "pictures": len(written.files)}
            unread = [*(folder.message for folder in found.lost), *written.skipped]
            facts |= {"files": written.files, "skipped": unread, "shows": written.words}
            note_skipped(found.skipped)
            facts["counts"] = Counts(found.seen, len(written.files), 0, len(unread), total_of(found.skipped))
    _report(facts, as_json)
    if facts["skipped"]:
        raise typer.Exit(PARTIAL)


def _refuse_ignored(what: str, point: str | None, mask: str | None, checkpoint: Path | None) -> None:
    """Refuse an unknown `--what` and options that it would ignore. Raises MisuseError."""
    if what not in WHAT:
        raise MisuseError(f"--what {what!r} is unknown; known: {', '.join(WHAT)}")
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


def _share(point: tuple[float, float] | None, first: str, limits: ImageLimits) -> tuple[float, float]:
    """Pixels of the first image -> shares of its width and height. Raises MisuseError outside the image."""
    if point is None:
        return 0.5, 0.5
    _, (width, height) = open_reduced(native_path(first), whole, limits=limits)
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
    print_notes(facts["skipped"], "skipped")
    if as_json:
        print_json({**facts, **({"counts": facts["counts"].as_json()} if "counts" in facts else {})})
        return
    count = f"{facts['pictures']} images" if "pictures" in facts else f"{facts['frames']} frames"
    say(f"{facts['out']}: {facts['what']} of {count}; {facts['shows']}")
    if "counts" in facts:
        say(facts["counts"].line("drawn"))
    if facts.get("page"):
        say(f"page: {facts['page']}; open it in a browser")
    elif "pictures" in facts:
        say("next: add --html page.html to blend maps and click patches")
