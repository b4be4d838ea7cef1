"""Textures drawn by formula, in any number, each from a seed.

A texture is a height map over rotated coordinates u, v, painted between two random colours. Scale, angle,
phase and colours are random for every image, so only the kind of texture separates the classes.
Shapes: S side; u, v and height maps float64 [S,S].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Map = NDArray[np.float64]  # [S,S]
Pixels = NDArray[np.uint8]  # [S,S,3]

PERIOD = (0.08, 0.3)  # range of the pattern's period, as a share of the side
PEN_STEPS = 48  # points along a stroke
NOISE = 0.03  # standard deviation, relative to the range of the height map


def stripes(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.sin(u)


def dots(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.where(np.cos(u) + np.cos(v) > 1, 1.0, 0.0)


def clouds(u: Map, v: Map, rng: np.random.Generator) -> Map:
    """Smooth noise of four octaves."""
    side = len(u)
    octaves = [smooth_noise(side, 2 ** (n + 2), rng) / 2**n for n in range(4)]
    return np.sum(octaves, axis=0)


def waves(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.sin(u + 1.5 * np.sin(v))


def lattice(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.maximum(np.cos(u), np.cos(v)) ** 5


def zigzag(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.sin(u + 2 * np.arcsin(np.sin(v)))


def strokes(u: Map, v: Map, rng: np.random.Generator) -> Map:
    """One mark of a thick pen: a smooth line through a few random points near the centre."""
    side = len(u)
    points = rng.uniform(0.2, 0.8, (rng.integers(3, 7), 2)) * side
    place = np.linspace(0, len(points) - 1, PEN_STEPS)
    line = np.stack([np.interp(place, np.arange(len(points)), axis) for axis in points.T], axis=1)
    kernel = np.hanning(PEN_STEPS // len(points) + 2)
    edges = ((len(kernel) // 2, (len(kernel) - 1) // 2), (0, 0))
    smooth = np.stack(
        [np.convolve(axis, kernel / kernel.sum(), "valid") for axis in np.pad(line, edges, "edge").T]
    )
    y, x = np.mgrid[0:side, 0:side]
    distance = np.min([np.hypot(y - b, x - a) for a, b in smooth.T], axis=0)
    return 1 / (1 + np.exp((distance - side * rng.uniform(0.03, 0.09)) / (0.015 * side)))


def checks(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.where(np.sin(u) * np.sin(v) > 0, 1.0, 0.0)


def rings(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.sin(np.hypot(u, v))


def honeycomb(u: Map, v: Map, rng: np.random.Generator) -> Map:
    """Sum of three waves at 120 degrees."""
    return sum(np.cos(u * np.cos(a) + v * np.sin(a)) for a in (0, 2 * np.pi / 3, 4 * np.pi / 3))


def marble(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.abs(np.sin(u / 2 + 4 * clouds(u, v, rng)))


def cells(u: Map, v: Map, rng: np.random.Generator) -> Map:
    """Distance to the nearest of some random points."""
    reach = np.abs(u).max()
    centres = rng.uniform(-reach, reach, (int((reach / np.pi) ** 2) + 4, 2))
    return np.min([np.hypot(u - x, v - y) for x, y in centres], axis=0)


def speckle(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.where(smooth_noise(len(u), 24, rng) > 0.25, 1.0, 0.0)


Texture = Callable[[Map, Map, np.random.Generator], Map]

# Kinds for training, and kinds only for evaluation.
SEEN: dict[str, Texture] = {
    "stripes": stripes,
    "dots": dots,
    "clouds": clouds,
    "waves": waves,
    "lattice": lattice,
    "zigzag": zigzag,
    "strokes": strokes,
}
UNSEEN: dict[str, Texture] = {
    "checks": checks,
    "rings": rings,
    "honeycomb": honeycomb,
    "marble": marble,
    "cells": cells,
    "speckle": speckle,
}


def draw_texture(texture: Texture, side: int, rng: np.random.Generator) -> Pixels:
    """One image, uint8 [S,S,3]."""
    angle, period = rng.uniform(0, 2 * np.pi), side * rng.uniform(*PERIOD)
    offset = rng.uniform(-side / 2, side / 2, 2)
    y, x = (np.mgrid[0:side, 0:side] - side / 2) - offset[:, None, None]
    scale = 2 * np.pi / period
    u, v = scale * (x * np.cos(angle) + y * np.sin(angle)), scale * (y * np.cos(angle) - x * np.sin(angle))
    return paint(texture(u, v, rng), rng)


def paint(height: Map, rng: np.random.Generator) -> Pixels:
    """Height map [S,S] of any range -> uint8 [S,S,3] between two different random colours, with noise."""
    low, high = height.min(), height.max()
    share = (height - low) / max(high - low, 1e-9) + rng.normal(0, NOISE, height.shape)
    first = rng.uniform(0, 1, 3)
    second = (first + rng.uniform(0.35, 0.65, 3)) % 1  # every channel differs by at least 0.35, modulo 1
    colours = first + share[..., None] * (second - first)
    return (255 * colours.clip(0, 1)).round().astype(np.uint8)


def smooth_noise(side: int, cells_per_side: int, rng: np.random.Generator) -> Map:
    """Random numbers on a coarse grid, enlarged bicubically: [S,S], about -1..1."""
    coarse: Any = rng.uniform(-1, 1, (cells_per_side, cells_per_side)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.float64)
