"""Attacks on single files: tensors, golden cases, images, tar archives of images."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from dinodeploy.files.tensors import load_tensors, read_metadata, save_tensors
from dinodeploy.images.open import open_image
from dinodeploy.parity.golden import GoldenCase, load_golden, save_golden
from dinodeploy.sources import SourceOptions
from dinodeploy.sources.archives import tars
from dinodeploy.sources.input_file import LocalFile
from tests.fuzz.attack import Attack
from tests.fuzz.mutations import mutate_bytes, to_text
from tests.support.images.matrix_case import levels, ramps
from tests.support.images.photographs import photograph
from tests.support.images.tiff_writer import Layout, write_tiff


def tensors(folder: Path) -> Attack:
    """safetensors: damaged bytes, or a damaged JSON header with its correct length."""
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.arange(4), "c": np.array([True, False])}
    save_tensors(folder / "good.safetensors", arrays, {"note": "x"})
    good = (folder / "good.safetensors").read_bytes()

    def attack(rng: Random) -> None:
        path = folder / "bad.safetensors"
        path.write_bytes(_mutate_tensors(good, rng))
        read_metadata(path)
        load_tensors(path)

    return attack


def _mutate_tensors(good: bytes, rng: Random) -> bytes:
    if rng.random() < 0.4:
        return mutate_bytes(good, rng)
    length = int.from_bytes(good[:8], "little")
    text = to_text(json.loads(good[8 : 8 + length]), rng)
    return len(text).to_bytes(8, "little") + text + good[8 + length :]


def golden(folder: Path) -> Attack:
    """golden.safetensors."""
    image = np.zeros((8, 8, 3), np.uint8)
    case = GoldenCase(
        "a", (image, image), np.zeros((2, 3, 16, 16), np.float32), {"cls": np.ones((2, 3), np.float32)}
    )
    save_golden([case, replace(case, name="b")], folder / "good.safetensors")
    good = (folder / "good.safetensors").read_bytes()

    def attack(rng: Random) -> None:
        (folder / "bad.safetensors").write_bytes(_mutate_tensors(good, rng))
        for case in load_golden(folder / "bad.safetensors"):
            assert case.size

    return attack


def images(folder: Path) -> Attack:
    """Every image format that we open, some with transparency."""
    small = photograph("chelsea").resize((24, 17))
    good: list[bytes] = []
    for name, mode in (
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("PPM", "L"),
        ("JPEG2000", "RGB"),
        ("AVIF", "RGB"),
    ):
        if name in Image.SAVE:
            buffer = io.BytesIO()
            image = small.convert("L").convert("I;16") if mode == "I;16" else small.convert(mode)
            image.save(buffer, name)
            good.append(buffer.getvalue())
    planes = levels(ramps()[..., :3], 16)
    good += [  # through tifffile
        write_tiff(planes, Layout(2, 16, planar=True)),
        write_tiff(planes, Layout(2, 12, compression="deflate", tile=(16, 32))),
        write_tiff(
            levels(ramps()[..., :2], 16), Layout(1, 16, compression="lzw", predictor=True, extra=(2,))
        ),
    ]
    with suppress(ImportError, RuntimeError):
        from pillow_heif import from_pillow

        from_pillow(small).save(buffer := io.BytesIO())
        good.append(buffer.getvalue())
    Image.init()

    def attack(rng: Random) -> None:
        data = mutate_bytes(rng.choice(good), rng)
        if rng.random() < 0.5:
            open_image(data, max_pixels=1 << 20)
        else:
            (folder / "image").write_bytes(data)
            open_image(folder / "image", max_pixels=1 << 20)

    return attack


def tar(folder: Path) -> Attack:
    """A tar archive of images; damage in it is an error of single images."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("a.jpg", "b/c.png", "../evil.jpg", "x" * 150 + ".jpg"):
            member = tarfile.TarInfo(name)
            member.size = 600
            file.addfile(member, io.BytesIO(bytes(600)))
    good = buffer.getvalue()

    def attack(rng: Random) -> None:
        path = folder / "images.tar"
        path.write_bytes(mutate_bytes(good, rng))
        for source in tars.open_file(LocalFile(str(path)), SourceOptions()):
            for index in range(len(source.ids)):
                source.image(index)

    return attack
