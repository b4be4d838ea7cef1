"""A video in, a video out, in shards; and COCO JSON for tasks that have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.sources import FileSource
from dinodeploy.tasks.results.finish import Finishing

av = pytest.importorskip("av")


def test_coco_is_for_objects() -> None:
    source = FileSource(["a.jpg"])
    Finishing("coco", "detect", (), source, True).check()
    with pytest.raises(MisuseError, match="--format coco is for detect, instance, panoptic"):
        Finishing("coco", "depth", (), source, True).check()


def test_frames_of_each_video_become_one_video(tmp_path: Path) -> None:
    ids = ["a.jpg", *(f"{clip}.mp4#t=0.{index}00" for clip in ("one", "two") for index in range(3))]
    finishing = Finishing("jsonl", "detect", (), FileSource(ids), True)
    segments, result = tmp_path / "segments", tmp_path / "result"
    segments.mkdir()
    result.mkdir()
    rows = []
    for number, part in enumerate((ids[:3], ids[3:])):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = [{"id": id, "overlay": f"{at}_overlay.jpg"} for at, id in enumerate(part)]
        for row in made:
            Image.new("RGB", (32, 32)).save(folder / row["overlay"])
        pieces = finishing.gather(folder, number, made)
        assert {path.name for path in folder.iterdir()} == {
            *pieces,
            *(["0_overlay.jpg"] if number == 0 else []),
        }
        for piece in pieces:
            (folder / piece).rename(segments / piece)
        rows += made
    finishing(result, segments, lambda: iter(rows))
    names = ["000002_one_overlay.mp4", "000005_two_overlay.mp4"]
    assert sorted(path.name for path in result.iterdir()) == names
    assert [row["overlay"] for row in rows] == ["0_overlay.jpg", *[names[0]] * 3, *[names[1]] * 3]
    for name in names:
        with av.open(str(result / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 3
