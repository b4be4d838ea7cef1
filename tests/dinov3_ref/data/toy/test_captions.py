"""The toy set of captioned images: seeded, held-out combinations, a vocabulary that the tokenizer reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinov3_ref.data.toy.captions import (
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    draw_scene,
    main,
    scenes,
    vocabulary,
)


def test_held_out_combinations_are_not_trained_on() -> None:
    train, test = scenes(held_out=False), scenes(held_out=True)
    every = len(SHAPES) * len(COLOURS) * (len(COLOURS) - 1) * len(TEXTURES) * len(SIZES)
    assert (len(train) + len(test), len(set(train) | set(test))) == (every, every)
    assert len(test) == every // 8
    assert train[0].caption() == "a {4} {1} {0} on a {2} {3} background".format(*train[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_shape_and_ground_have_their_colours(shape: str, texture: str) -> None:
    pixels = draw_scene(Scene(shape, "red", texture, "blue", "large"), 48, np.random.default_rng(0)).astype(
        int
    )
    red = pixels[..., 0] > pixels[..., 2]
    assert 0.05 < red.mean() < 0.5
    assert abs(pixels[red].mean(axis=0) - COLOURS["red"]).max() < 40
    ground = pixels[~red]
    assert ground[:, 2].mean() > 1.5 * ground[:, 0].mean()
    assert (np.ptp(np.percentile(ground[:, 2], [10, 90])) > 40) == (texture != "plain")


def test_the_command_writes_the_same_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        assert main([str(tmp_path / name), "--images", "5", "--test", "3", "--side", "24"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{tmp_path / 'a' / 'train.tsv'}  5 images",
        f"{tmp_path / 'a' / 'test.tsv'}  3 images",
    ]
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 11
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert main([str(tmp_path / "a")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([str(tmp_path / "c"), "--test", "0"]) == 2


def test_the_vocabulary_makes_words_of_captions() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    assert tokenizers
    lines = vocabulary().splitlines()
    assert (len(lines), lines[0][0]) == (91, "#")
    merged = {line.replace(" ", "") for line in lines[1:]}
    assert {"background</w>", "large</w>", "circle</w>"} <= merged
