"""Unit vectors and exact neighbours against plain numpy."""

from __future__ import annotations

import numpy as np

from dinodeploy.search.nearest import best_cosines, cosines
from dinodeploy.store.dtypes import unit_length
from tests.support.indexed import vectors_of


def test_unit_marks_zero_and_not_finite_rows() -> None:
    rows = np.array([[3, 4], [0, 0], [np.inf, 1], [1e-30, 0]], np.float32)
    vectors, good = unit_length(rows)
    assert good.tolist() == [True, False, False, True]
    np.testing.assert_allclose(vectors[[0, 3]], [[0.6, 0.8], [1, 0]], rtol=1e-6)


def test_best_cosines_equal_a_sort_of_all() -> None:
    rows, _ = unit_length(vectors_of(50))
    queries, _ = unit_length(vectors_of(3, seed=1))
    wanted = -np.sort(-(queries @ rows.T), axis=1)[:, :5]
    blocks = [rows[:20], rows[20:23], rows[23:]]
    np.testing.assert_allclose(best_cosines(queries, blocks, 5), wanted, rtol=1e-6)
    assert np.isneginf(best_cosines(queries, [rows[:2]], 5)[:, 2:]).all()


def test_equal_rows_have_bit_equal_cosines() -> None:
    rows = np.repeat(vectors_of(1), 7, axis=0)
    assert len(set(cosines(rows, vectors_of(1, seed=1)[0]).tolist())) == 1
