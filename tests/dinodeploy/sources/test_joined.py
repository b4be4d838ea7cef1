"""Several inputs as one source."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from dinodeploy.sources import FileSource, open_source
from tests.dinodeploy.sources.reading import ALL, assert_same, ids, misuse, read_by_threads
from tests.support.image_files import encoded, write_folder, write_tar


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos")
    return tmp_path


def test_joined_inputs_keep_order_without_repeats() -> None:
    Path("l.txt").write_text("photos/still/coffee.jpg\nphotos/still/china.jpg\n")
    write_tar(Path("s.tar"), {"coffee.jpg": encoded("coffee")})
    assert ids("l.txt", "s.tar", "photos", "s.tar", "./l.txt") == [
        ALL[3], ALL[2], "s.tar/coffee.jpg", ALL[0], ALL[1], ALL[4], ALL[5]
    ]  # fmt: skip
    source = open_source(["l.txt", "s.tar", "photos"])
    assert_same(
        read_by_threads(source),
        [np.asarray(open_image(id_ if ".tar" not in id_ else encoded("coffee"))) for id_ in source.ids],
    )
    assert source.ids[-1] == ALL[5]
    assert list(source.ids[1:3]) == [ALL[2], "s.tar/coffee.jpg"]
    with pytest.raises(IndexError):
        source.ids[len(source.ids)]


def test_files_alone_are_one_source_that_can_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the workers of a cluster, which have no standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photos/still/coffee.jpg\n")))
    source = open_source(["-", "photos", "photos/still/china.jpg"])
    assert isinstance(source, FileSource)
    sent = pickle.loads(pickle.dumps(source))
    assert list(sent.ids) == list(source.ids) == [ALL[3], *ALL[:3], *ALL[4:]]
    assert sent.image(2) == ALL[1]
    write_tar(Path("s.tar"), {"coffee.jpg": encoded("coffee")})
    assert not isinstance(open_source(["photos", "s.tar"]), FileSource)


def test_an_id_of_a_table_may_not_be_the_path_of_another_image() -> None:
    Path("t.csv").write_text(f"key,path\n{ALL[0]},photos/still/coffee.jpg\n")
    assert "is given to two images" in misuse("photos", "t.csv", id_column="key")
