"""Labels files of any origin: encodings, blank lines, duplicates, and what is no list of labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.text.labels import labels_of, read_labels


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_encoding_that_editors_write(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(end.join(["cat", "", "  Katze, groß ", "\t", "猫 🐈", ""]).encode(encoding))
    found = read_labels(path)
    assert (found.names, found.notes, len(found)) == (("cat", "Katze, groß", "猫 🐈"), (), 3)


def test_duplicates_count_once_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("crane\nmaillot\ncrane\n\nmaillot \na\na\na\n")
    found = read_labels(path)
    assert found.names == ("crane", "maillot", "a")
    assert found.notes == (
        f"{path}: repeated labels count once: 'crane' in lines 1 and 3; 'maillot' in lines 2 and 5; "
        "'a' in lines 6 and 7 and 1 more",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; wanted one label per line"),
        (b"\xef\xbb\xbf\n  \r\n\t\n", "is empty; wanted one label per line"),
        (b"cat\nk\xe4se\n", "line 2: not UTF-8 text; save the file as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8 text"),
        (b"\xff\xfea", "not text"),
    ],
)
def test_what_is_no_list_of_labels(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(MisuseError, match=message):
        read_labels(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match=r"none\.txt: no such file; wanted a text file"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(MisuseError, match="is a folder; wanted a text file"):
        read_labels(tmp_path)


def test_labels_given_in_python() -> None:
    assert labels_of([" cat", "dog", "cat"]).names == ("cat", "dog")
    with pytest.raises(MisuseError, match="label 2 is empty"):
        labels_of(["cat", " "])
    with pytest.raises(MisuseError, match="got 0 labels"):
        labels_of([])
