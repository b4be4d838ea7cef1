"""Attacks on indices of stores: damaged manifests and tables, and filters."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random

from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.errors import DinodeployError
from dinodeploy.search import Index, build_index
from dinodeploy.search.filters import Kind, filter_sql
from dinodeploy.search.table import open_table
from tests.fuzz.attack import Attack, Violation
from tests.fuzz.mutations import mutate_bytes, to_text
from tests.support.indexed import store_of, vectors_of

_SLOWEST = 1.0  # seconds for one filter, Lance included; measured: 0.1


def index(folder: Path) -> Attack:
    """index.json with damaged fields; or a damaged file of the table with its correct hash."""
    store_of(folder / "s", vectors_of(9))
    (folder / "m.csv").write_text("id,label,n\np1.jpg,x,1\np2.jpg,y,2\n")
    build_index(folder / "s", metadata=folder / "m.csv")
    root = folder / "s.index"
    document = json.loads((root / "index.json").read_text())
    good = {name: (root / name).read_bytes() for name in document["files"]}

    def attack(rng: Random) -> None:
        if rng.random() < 0.85:
            (root / "index.json").write_bytes(to_text(document, rng))
            _search(folder / "s")
            return
        name = rng.choice(list(good))
        (root / name).write_bytes(mutate_bytes(good[name], rng))
        changed = json.loads(json.dumps(document))
        size = (root / name).stat().st_size
        changed["files"][name] |= {"sha256": sha256_file(root / name), "bytes": size, "modified": None}
        (root / "index.json").write_text(json.dumps(changed))
        try:
            _search(folder / "s")
        finally:
            (root / name).write_bytes(good[name])

    return attack


def _search(store: Path) -> None:
    with Index.open(store) as opened:
        opened.search(vectors_of(2), 3, filter="width > 600 and not label = 'x'")
        opened.ids()


KINDS: dict[str, Kind] = {
    "id": "text",
    "width": "integer",
    "height": "integer",
    "label": "text",
    "n": "integer",
}
_WORDS = (
    *("(", ")", " not ", " and ", " or ", "not (", "not ", ",", "-", "+", "--", "/*", ";", "'", '"', "`"),
    *("width", "label", "id", "n", "score", " in ", " in (1, 2)", " like ", " between ", " is null"),
    *("=", "<", ">=", "!=", "<>", "==", "1", "-1", "1.5", "1e308", "1e999", ".5", "9" * 30, "0034", "true"),
    *("'x'", "'%'", "'_%_%'", "'it''s'", "'\udc80'", "'\x00'", '"label"', "`id`", " " * 50, "\n", "\u202e"),
    *("width > 1", "label = 'x'", "id like '%a%'", "n in (1, 2.5)", "n not between 1 and 2", "n is null"),
)
_WHOLE = (
    "width > 640 and (label = 'cat' or label like 'dog%') and not label is null",
    "n between 1 and 2.5 or not (id in ('a', 'b') and width != 3)",
    "not (not (not (width > 3 or n = 1) and label = 'x') or id = 'y')",
)


def filters(folder: Path) -> Attack:
    """Filters: mutated ones, random words, deep and long ones. Whatever is accepted runs in Lance, fast."""
    store_of(folder / "s", vectors_of(9))
    (folder / "m.csv").write_text("id,label,n\np1.jpg,x,1\n")
    build_index(folder / "s", metadata=folder / "m.csv")
    table = open_table(folder / "s.index" / "images.lance")

    def attack(rng: Random) -> None:
        text = _filter(rng)
        started = time.process_time()
        try:
            sql = filter_sql(text, KINDS)
            try:
                table.count_rows(sql)
            except (OSError, ValueError, DinodeployError) as error:
                raise Violation(f"Lance refuses what the parser accepts: {text[:300]!r}: {error}") from error
        finally:
            if (seconds := time.process_time() - started) > _SLOWEST:
                raise Violation(f"{seconds:.1f} s for {len(text)} characters: {text[:300]!r}")

    return attack


def _filter(rng: Random) -> str:
    match rng.randrange(5):
        case 0:
            return "".join(rng.choices(_WORDS, k=rng.choice((3, 10, 40, 400))))
        case 1:
            return mutate_bytes(rng.choice(_WHOLE).encode(), rng).decode(errors="surrogateescape")
        case 2:
            return _tree(rng, rng.choice((2, 5, 8, 14)))
        case 3:  # one thing, very often
            word, count = rng.choice(_WORDS), rng.choice((10, 49, 50, 51, 1000, 20_000))
            return word * count + rng.choice(_WHOLE) + rng.choice(("", ")" * count))
    joined = rng.choice((" or ", " and ", " or not ", " and not (n = 1) or "))
    return joined.join(rng.choices(_WORDS[-6:], k=rng.choice((5, 100, 999, 1200))))


def _tree(rng: Random, depth: int) -> str:
    """A valid condition of at most `depth` levels, more or less."""
    if not depth or rng.random() < 0.1:
        return rng.choice(_WORDS[-6:])
    word = rng.choice((" and ", " or "))
    parts = word.join(_tree(rng, depth - 1) for _ in range(rng.choice((1, 1, 2))))
    return f"{rng.choice(('', 'not ', 'not not '))}({parts})"
