"""`dinodeploy search`: the images most similar to an image or a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Argument, Option

from dinodeploy.arrays import FloatArray
from dinodeploy.cli.options import MaxPixels, RequireSignature
from dinodeploy.cli.output import DEVICE_HELP, note, print_json, say
from dinodeploy.errors import MisuseError, printable
from dinodeploy.files.atomic import atomic_file
from dinodeploy.images.limits import ImageLimits
from dinodeploy.search import Hit, Index
from dinodeploy.search.query import embed_queries, mix_queries
from dinodeploy.search.sheets import Asked, check_sheet, search_sheet
from dinodeploy.store.formats.arrow import utf8


@dataclass(frozen=True)
class Query:
    """What to search for. image: an image that it shows. without: ids that are no answer."""

    name: str
    image: str | None
    vector: FloatArray
    without: tuple[str, ...] = ()


def search(
    out: Annotated[Path, Argument(help="Indexed embeddings (from `dinodeploy index`).", metavar="OUT")],
    image: Annotated[list[Path] | None, Option(help="Image to search for. Repeatable.")] = None,
    id: Annotated[
        list[str] | None, Option("--id", help="Id of an image in OUT to search for. Repeatable.")
    ] = None,
    text: Annotated[
        list[str] | None,
        Option(help="Words to search for, such as 'a red bicycle'; needs a dino.txt bundle. Repeatable."),
    ] = None,
    text_weight: Annotated[
        float, Option(help="Weight of the texts beside images, from 0 to 1; together they are one query.")
    ] = 0.5,
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
    """Find the images most similar to an image or a text, by cosine similarity; equal ones by id."""
    images, ids, texts = image or [], id or [], text or []
    if not images and not ids and not texts:
        raise MisuseError(
            "no query; give --image FILE, --text 'a red bicycle', or --id with an id of the store"
        )
    check_sheet(html)
    with Index.open(out, verify=verify) as index:
        facts = index.manifest
        found, words = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
        if images or texts:
            made_by = engine or facts.engine
            if made_by is None:
                raise MisuseError(
                    "the index does not name its engine; give the bundle that embedded OUT as --engine"
                )
            found, words = embed_queries(
                made_by,
                facts.fingerprint,
                facts.output,
                images=images,
                texts=texts,
                device=device,
                limits=ImageLimits.of(max_pixels),
                require_signature=require_signature,
                log=partial(note, device),
            )
        named = [index.vector(name) for name in ids]
        shown = [
            Query(name, name, vector, (name,) if place >= len(images) else ())
            for place, (name, vector) in enumerate(
                zip(utf8([*map(str, images), *ids]), [*found, *named], strict=True)
            )
        ]
        said = [Query(words_of, None, vector) for words_of, vector in zip(texts, words, strict=True)]
        asked = [
            Asked(
                query.name,
                query.image,
                index.search(
                    query.vector,
                    neighbours,
                    filter=filter,
                    text=text_filter,
                    exact=exact,
                    without=query.without,
                )[0],
            )
            for query in _queries(shown, said, text_weight)
        ]
    if html is not None:
        parts = [part for part in (filter, f"containing {text_filter}" if text_filter else None) if part]
        page = search_sheet(out.resolve().name, f", {' and '.join(parts)}" if parts else "", asked)
        with atomic_file(html) as file:
            file.write(page.encode())
    _print(asked, html, as_json)


def _queries(shown: list[Query], said: list[Query], weight: float) -> Iterator[Query]:
    """Each image or each text for itself; if there are both, all of them as one query."""
    if not shown or not said:
        yield from (*shown, *said)
        return
    yield Query(
        " and ".join(query.name for query in (*said, *shown)),
        shown[0].image,
        mix_queries([query.vector for query in shown], [query.vector for query in said], weight),
        tuple(name for query in shown for name in query.without),
    )


def _print(asked: list[Asked], html: Path | None, as_json: bool) -> None:
    if as_json:
        print_json([{"query": one.query, "hits": [asdict(hit) for hit in one.hits]} for one in asked])
        return
    for one in asked:
        say(f"nearest to {printable(one.query)}:")
        widest = max((len(_size(hit)) for hit in one.hits), default=0)
        for hit in one.hits:
            say(f"{hit.rank:>4}  {hit.cosine:7.4f}  {_size(hit):>{widest}}  {printable(hit.id)}")
        if not one.hits:
            say("  nothing matches the filter")
    if html is not None:
        say(f"{html}: the same with images; open it in a browser")


def _size(hit: Hit) -> str:
    return f"{hit.width}x{hit.height}"
