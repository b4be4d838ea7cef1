"""labels.csv: both forms of classes, numbers, and every fault with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.heads.tables import read_table


def write(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder


def test_columns_of_classes_and_a_column_of_names_are_the_same(tmp_path: Path) -> None:
    ones = read_table(write(tmp_path, "file,cat,dog\na.jpg,1,0\nb/c.jpg,1,1\n"), "multilabel")
    names = read_table(
        write(tmp_path, "\ufefffile,labels\r\na.jpg,cat\r\n\r\nb/c.jpg, dog; cat\r\n"), "multilabel"
    )
    assert ones.ids == names.ids == (str(tmp_path / "a.jpg"), str(tmp_path / "b/c.jpg"))
    assert ones.names == names.names == ("cat", "dog")
    assert ones.values.tolist() == names.values.tolist() == [[1, 0], [1, 1]]


def test_numbers_in_the_order_of_the_training_data(tmp_path: Path) -> None:
    table = read_table(
        write(tmp_path, 'file,age,weight\n"a, b.jpg",3.5,-1e2\n'), "regress", ("weight", "age")
    )
    assert table.ids == (str(tmp_path / "a, b.jpg"),)
    assert table.values.tolist() == [[-100, 3.5]]


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("regress", "file,age\na.jpg,old\n", "line 2: 'old'; wanted a number"),
        ("regress", "file,age\na.jpg,nan\n", "line 2: 'nan'; wanted a number"),
        ("multilabel", "file,cat,dog\na.jpg,1,2\n", "line 2: '2'; wanted 1 or 0"),
        ("regress", "file,age\na.jpg,1,2\n", "line 2: 3 cells; wanted 2"),
        ("regress", "file,age\na.jpg,1\na.jpg,2\n", "has 2 lines; wanted one"),
        ("regress", "file\na.jpg\n", "with different names"),
        ("regress", "file,age,age\na.jpg,1,2\n", "with different names"),
        ("regress", "file,age\n", "has no images"),
        ("multilabel", "file,labels\na.jpg,\n", "names no class"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, task: str, text: str, message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        read_table(write(tmp_path, text), task)


def test_other_names_in_a_test_set_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="'bird' is not a class of the training data"):
        read_table(write(tmp_path, "file,labels\na.jpg,bird\n"), "multilabel", ("cat", "dog"))
    with pytest.raises(MisuseError, match="has the columns height; wanted age"):
        read_table(write(tmp_path, "file,height\na.jpg,1\n"), "regress", ("age",))
    with pytest.raises(MisuseError, match="cannot be read"):
        read_table(tmp_path / "none", "regress")
