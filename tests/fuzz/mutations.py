"""Mutations of bytes, JSON and zip files, reproducible from a seed."""

from __future__ import annotations

import copy
import io
import json
import stat
import zipfile
from random import Random
from typing import Any

# Critical numbers for parsers, as 1, 2, 4 and 8 bytes.
_EDGES = (
    b"\x00",
    b"\xff",
    b"\x7f\xff",
    b"\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x80" * 8,
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    2**70,
    "",
    "x",
    "../../evil",
    "/etc/passwd",
    "a\nb\x00c",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[]],
    {"": None},
    "model.onnx",
    "float32",
)
_NAMES = (
    "../evil",
    "/tmp/evil",
    "a/b",
    "MANIFEST.json",
    ".",
    "model.sig",
    "CON",
    "x\x00y",
    "parity.json",
    "",
)


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """One to eight mutations: flipped bits, random bytes, critical numbers, deletions, repeats, a cut."""
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(mutant) + 1)
        span = rng.choice((1, 2, 4, 8, 64, 500))
        match rng.randrange(7):
            case 0 if mutant:
                mutant[at % len(mutant)] ^= 1 << rng.randrange(8)
            case 1:
                mutant[at : at + 1] = rng.randbytes(1)
            case 2:
                edge = rng.choice(_EDGES)
                mutant[at : at + len(edge)] = edge
            case 3:
                del mutant[at : at + span]
            case 4:
                mutant[at:at] = mutant[at : at + span] * rng.choice((1, 1, 20))
            case 5:
                mutant[at:at] = rng.randbytes(span)
            case 6 if rng.random() < 0.4:
                del mutant[at:]
    return bytes(mutant)


def mutate_json(document: Any, rng: Random) -> Any:
    """A copy with one or two members deleted, replaced, renamed, repeated or swapped."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2))):
        containers = [container for container in _containers(document) if container]
        if not containers:
            return rng.choice(_VALUES)
        container = rng.choice(containers)
        key: Any = (
            rng.choice(list(container)) if isinstance(container, dict) else rng.randrange(len(container))
        )
        match rng.randrange(6):
            case 0 | 1:
                container[key] = copy.deepcopy(rng.choice(_VALUES))
            case 2:
                del container[key]
            case 3 if isinstance(container, dict):
                container[str(rng.choice(_VALUES))] = container.pop(key)
            case 4 if isinstance(container, list):
                container.insert(0, copy.deepcopy(container[key]))
            case _:
                other = rng.choice(containers)
                container[key] = copy.deepcopy(other)
    return document


def to_text(document: Any, rng: Random) -> bytes:
    """A mutant of a document as bytes: mutated as JSON, in a quarter of the cases also as text."""
    text = json.dumps(mutate_json(document, rng)).encode()
    return mutate_bytes(text, rng) if rng.random() < 0.25 else text


def mutate_zip(data: bytes, rng: Random) -> bytes:
    """A zip file with a changed entry, or damaged bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        entries = [(info, old.read(info)) for info in old.infolist()]
        victim = rng.randrange(len(entries))
        for index, (info, content) in enumerate(entries):
            if index == victim:
                info, content = _mutate_entry(info, content, rng)
            new.writestr(info, content)
    written = target.getvalue()
    return mutate_bytes(written, rng) if rng.random() < 0.2 else written


def _mutate_entry(info: zipfile.ZipInfo, content: bytes, rng: Random) -> tuple[zipfile.ZipInfo, bytes]:
    match rng.randrange(5):
        case 0:
            changed = zipfile.ZipInfo(rng.choice(_NAMES).replace("\x00", "_") or "_")
            changed.external_attr = info.external_attr
            return changed, content
        case 1:
            info.external_attr = rng.choice((stat.S_IFLNK, stat.S_IFDIR, stat.S_IFCHR)) << 16
        case 2:
            info.compress_type = zipfile.ZIP_DEFLATED
        case 3:
            content = mutate_bytes(content, rng)
        case _:
            content *= 3
    return info, content


def _containers(document: Any) -> list[Any]:
    """All objects and arrays of a document."""
    if isinstance(document, dict):
        return [document, *(inner for value in document.values() for inner in _containers(value))]
    if isinstance(document, list):
        return [document, *(inner for value in document for inner in _containers(value))]
    return []
