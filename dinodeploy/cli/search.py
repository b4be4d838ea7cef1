"""`dinodeploy search`: the images most similar to an image."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Argument, Option

from dinodeploy.cli.options import MaxPixels, RequireSignature
from dinodeploy.cli.output import DEVICE_HELP, note, print_json, say
from dinodeploy.errors import MisuseError, printable
from dinodeploy.files.atomic import atomic_file
from dinodeploy.images.limits import ImageLimits
from dinodeploy.search import Hit, Index
from dinodeploy.search.query import embed_query
from dinodeploy.search.sheets import check_sheet, search_sheet
from dinodeploy.store.formats.arrow import utf8

Asked = list[tuple[str, bool, list[Hit]]]  # (query, whether it is an image, hits)


def search(
    out: Annotated[Path, Argument(help="Indexed embeddings (from `dinodeploy index`).", metavar="OUT")],
    image: Annotated[list[Path] | None, Option(help="Image to search for. Repeatable.")] = None,
    id: Annotated[
        list[str] | None, Option("--id", help="Id of an image in OUT to search for. Repeatable.")
    ] = None,
    neighbours: Annotated[int, Option("--neighbours", "-k", help="Number of images to find.")] = 10,
    filter: Annotated[
        str | None, Option(help="Condition on metadata, e.g. width > 640 and label in ('cat', 'dog').")
    ] = None,
    text_filter: Annotated[str | None, Option(help="Word that the id or the metadata must contain.")] = None,
    engine: Annotated[
        Path | None, Option(help="Bundle that embedded OUT. Default: the one given to `index`.")
    ] = None,
    device: Annotated[str, Option(help=DEVICE_HELP)] = "auto",
    exact: Annotated[
        bool, Option("--exact", help="Compare all rows instead of using the approximate index.")
    ] = False,
    verify: Annotated[
        bool, Option("--verify", help="Compare the hash of every file of the index, also of large ones.")
    ] = False,
    html: Annotated[Path | None, Option(help="Write an HTML page with the images.")] = None,
    max_pixels: MaxPixels = None,
    require_signature: RequireSignature = None,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find the images most similar to an image, by cosine similarity. Equal ones are ordered by id."""
    images, ids = image or [], id or []
    if not images and not ids:
        raise MisuseError("no query; give --image FILE, or --id with an id of the store")
    check_sheet(html)
    with Index.open(out, verify=verify) as index:
        vectors = [index.vector(name) for name in ids]
        if images:
            made_by = engine or index.manifest.engine
            if made_by is None:
                raise MisuseError(
                    "the index does not name its engine; give the bundle that embedded OUT as --engine"
                )
            facts = index.manifest
            log = partial(note, device)
            found = embed_query(
                images,
                made_by,
                facts.fingerprint,
                facts.output,
                device=device,
                limits=ImageLimits.of(max_pixels),
                require_signature=require_signature,
                log=log,
            )
            vectors = [*found, *vectors]
        asked: Asked = []
        names = utf8([*map(str, images), *ids])
        for number, (name, vector) in enumerate(zip(names, np.stack(vectors), strict=True)):
            without = [name] if number >= len(images) else []
            (hits,) = index.search(
                vector, neighbours, filter=filter, text=text_filter, exact=exact, without=without
            )
            asked.append((name, True, hits))
    if html is not None:
        words = [part for part in (filter, f"containing {text_filter}" if text_filter else None) if part]
        page = search_sheet(out.resolve().name, f", {' and '.join(words)}" if words else "", asked)
        with atomic_file(html) as file:
            file.write(page.encode())
    _print(asked, html, as_json)


def _print(asked: Asked, html: Path | None, as_json: bool) -> None:
    if as_json:
        print_json([{"query": name, "hits": [asdict(hit) for hit in hits]} for name, _, hits in asked])
        return
    for name, _, hits in asked:
        say(f"nearest to {printable(name)}:")
        widest = max((len(_size(hit)) for hit in hits), default=0)
        for hit in hits:
            say(f"{hit.rank:>4}  {hit.cosine:7.4f}  {_size(hit):>{widest}}  {printable(hit.id)}")
        if not hits:
            say("  nothing matches the filter")
    if html is not None:
        say(f"{html}: the same with images; open it in a browser")


def _size(hit: Hit) -> str:
    return f"{hit.width}x{hit.height}"
