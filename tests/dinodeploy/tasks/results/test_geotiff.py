"""GeoTIFF in, GeoTIFF out: the tags are copied, read back by tifffile and by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.tasks.results.geotiff import geo_tags, write_geotiff

tifffile = pytest.importorskip("tifffile")

KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)  # projected, pixel is area, UTM 33 N
GEO = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 5400000.25, 0.0), True),
    (34735, "H", len(KEYS), KEYS, True),
    (34736, "d", 2, (6378137.0, 298.257223563), True),
    (34737, "s", 0, "WGS 84 / UTM zone 33N|", True),
]
METRES = np.array([[1.25, np.nan], [0.0, 96.0]], np.float32)


@pytest.mark.parametrize("options", [{"byteorder": "<"}, {"byteorder": ">"}, {"bigtiff": True}])
def test_tags_are_copied(options: dict[str, object], tmp_path: Path) -> None:
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, np.zeros((2, 2, 3), np.uint8), extratags=GEO, photometric="rgb", **options)
    for image in (source, str(source), source.read_bytes()):
        write_geotiff(target, METRES, geo_tags(image))
        with tifffile.TiffFile(target) as tiff:
            page = tiff.pages.first
            np.testing.assert_array_equal(page.asarray(), METRES)
            for tag, _, _, value, _ in GEO:
                assert page.tags[tag].value == value
            assert page.tags[42113].value == "nan"
    with Image.open(target) as image:
        assert image.mode == "F"


def test_other_images_have_no_place(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.tif")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08")
    turned = tmp_path / "turned.tif"
    orientation = [(274, "H", 1, 6, True)]
    tifffile.imwrite(turned, np.zeros((2, 2), np.uint8), extratags=[*GEO, *orientation])
    for name in ("plain.tif", "a.png", "cut.tif", "turned.tif"):
        assert geo_tags(tmp_path / name) == {}
    assert geo_tags(Image.new("RGB", (2, 2))) == {}
