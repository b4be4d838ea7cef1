"""Folders of labelled pictures: what is read, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.heads.labelled import read_classified, read_mask, read_segmented
from dinodeploy.heads.places import enlarge_argmax, place_mask
from dinodeploy.images.preprocess import PRESETS, Preprocess
from tests.support.labelled_images import write_digits, write_scenes

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "d", each=2, kinds=3)
    (root / ".cache").mkdir()
    (root / "readme.txt").write_text("x")
    found = read_classified(root)
    assert found.classes == ("digit_0", "digit_1", "digit_2")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(
        Path(id_).parent.name == found.classes[k] for id_, k in zip(found.ids, found.labels, strict=True)
    )


def test_folders_that_hold_too_little_are_refused(tmp_path: Path) -> None:
    write_digits(tmp_path / "one", each=1, kinds=1)
    with pytest.raises(MisuseError, match="holds 1 class folders; wanted at least two"):
        read_classified(tmp_path / "one")
    (tmp_path / "one" / "empty").mkdir()
    with pytest.raises(MisuseError, match="no picture under"):
        read_classified(tmp_path / "one")
    with pytest.raises(MisuseError, match="is no folder"):
        read_classified(tmp_path / "none")
    test = write_digits(tmp_path / "test", each=1, kinds=3)
    with pytest.raises(MisuseError, match="digit_2 is none of the classes trained on: digit_0, digit_1"):
        read_classified(test, ("digit_0", "digit_1"))


def test_pictures_and_masks_are_paired(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "s", 3)
    found = read_segmented(root)
    assert found.names == ("retina", "coffee", "chelsea", "rocket")
    assert [path.stem for path in found.masks] == [Path(id_).stem for id_ in found.ids]
    mask = read_mask(found.masks[0])
    assert mask.shape == (120, 160)
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 255}
    found.masks[1].unlink()
    with pytest.raises(MisuseError, match=r"images/01\.jpg has no mask; wanted .*masks/01\.png"):
        read_segmented(root)
    (root / "classes.txt").write_text("a\na\n")
    Image.new("L", (160, 120)).save(found.masks[1])
    with pytest.raises(MisuseError, match="holds 2 names; wanted different ones"):
        read_segmented(root)


def test_masks_are_ids_not_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 255]], np.uint8)
    palette = Image.fromarray(ids)
    palette = palette.convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.save(tmp_path / "p.png")
    assert (read_mask(tmp_path / "p.png") == ids).all()
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "16.png")
    assert (read_mask(tmp_path / "16.png") == ids).all()
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    for name, message in (
        ("rgb", "a mask of mode RGB"),
        ("broken", "cannot be read"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=message):
            read_mask(tmp_path / f"{name}.png")


@pytest.mark.parametrize("preset", PRESETS)
def test_masks_lie_where_the_pictures_do(preset: str) -> None:
    """A mask that is the picture's own brightness, cut and resized like it."""
    preprocess = Preprocess.from_preset(preset, (64, 64), MEAN, STD)
    for width, height in ((301, 200), (97, 260)):
        rows, columns = np.mgrid[:height, :width]
        mask = ((rows // 40 + columns // 40) % 2).astype(np.int64)
        image = Image.fromarray((mask * 255).astype(np.uint8)).convert("RGB")
        seen = preprocess(image)[0] * 0.5 + 0.5
        placed = place_mask(mask, preprocess)
        assert placed.shape == seen.shape
        assert ((seen > 0.5) == placed).mean() > 0.95


def test_views_lie_inside_the_picture() -> None:
    timm = Preprocess.from_preset("timm", (64, 64), MEAN, STD)
    assert timm.view(300, 200) == pytest.approx((50, 0, 250, 200), abs=2)
    assert timm.view(200, 300) == pytest.approx((0, 50, 200, 250), abs=2)
    assert Preprocess.from_preset("official", (64, 64), MEAN, STD).view(300, 200) == (0, 0, 300, 200)


def test_enlarged_classes_are_torch_s() -> None:
    import torch

    logits = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(logits).permute(2, 0, 1)[None], size=(80, 48), mode="bilinear"
    )
    assert (enlarge_argmax(logits, (80, 48)) == wanted[0].argmax(0).numpy()).mean() > 0.999
