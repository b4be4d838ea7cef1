"""`ImageEmbedder` under scikit-learn's own checks, in pipelines, searches and other processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from dinodeploy import Embedder, MisuseError
from dinodeploy.integrations.opened import opened
from dinodeploy.integrations.sklearn import ImageEmbedder
from tests.support.tiny_models import ONNXRUNTIME

SIZE = 32


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight noisy images, dark ones and bright ones by turns."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    found = []
    for index in range(8):
        low = 150 * (index % 2)
        Image.fromarray(random.integers(low, low + 100, (40, 60, 3), np.uint8)).save(folder / f"{index}.png")
        found.append(folder / f"{index}.png")
    return found


@pytest.fixture
def embedder(tiny_bundle: Path) -> ImageEmbedder:
    return ImageEmbedder(tiny_bundle, device=ONNXRUNTIME, threads=1, imgsz=SIZE)


@pytest.fixture(scope="module")
def vectors(tiny_bundle: Path, paths: list[Path]) -> Iterator[Any]:
    with Embedder.open(tiny_bundle, device=ONNXRUNTIME, threads=1) as engine:
        yield engine.encode(paths, imgsz=SIZE)


def test_every_kind_of_input(embedder: ImageEmbedder, paths: list[Path], vectors: Any) -> None:
    pandas = pytest.importorskip("pandas")
    names = list(map(str, paths))
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    column = pandas.DataFrame({"path": names})
    inputs = [paths, names, tuple(names), np.array(names), np.array(names)[:, None], column, column["path"]]
    inputs += [arrays, list(arrays), [path.read_bytes() for path in paths], list(map(Image.open, paths))]
    embedder.fit(names)
    for given in inputs:
        np.testing.assert_array_equal(embedder.transform(given), vectors)
    assert embedder.transform([]).shape == (0, vectors.shape[1])


def test_options_reach_the_engine(embedder: ImageEmbedder, paths: list[Path], vectors: Any) -> None:
    unit = clone(embedder).set_params(normalize=True, output="pooled").fit_transform(paths)
    assert unit.shape == (8, 2 * vectors.shape[1])
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_scikit_learns_own_checks(embedder: ImageEmbedder) -> None:
    """Those of the constructor, parameters, clones and tags; all others fit on matrices of numbers."""
    names = (
        "check_estimator_cloneable",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_mixin_order",
        "check_get_params_invariance",
        "check_set_params",
    )
    for name in names:
        getattr(estimator_checks, name)(type(embedder).__name__, clone(embedder))


def test_names_of_features(embedder: ImageEmbedder, paths: list[Path], vectors: Any) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(NotFittedError):
        embedder.get_feature_names_out()
    with pytest.raises(NotFittedError):
        embedder.transform(paths)
    embedder.fit(paths)
    assert list(embedder.get_feature_names_out()[:2]) == ["cls0", "cls1"]
    assert len(embedder.get_feature_names_out()) == vectors.shape[1]
    frame = pandas.DataFrame({"path": list(map(str, paths)), "width": 60.0})
    both = ColumnTransformer([("image", embedder, ["path"]), ("width", "passthrough", ["width"])])
    both.set_output(transform="pandas")
    made = both.fit_transform(frame)
    assert list(made.columns[:1]) == ["image__cls0"]
    np.testing.assert_array_equal(made.iloc[:, :-1].to_numpy(), vectors)


def test_it_is_pickled_as_its_parameters(embedder: ImageEmbedder, paths: list[Path], vectors: Any) -> None:
    content = pickle.dumps(embedder.fit(paths))
    assert len(content) < 1500
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.transform(paths), vectors)
    shared = opened(embedder.bundle, device=ONNXRUNTIME, threads=1)
    assert shared is opened(again.bundle, device=ONNXRUNTIME, threads=1)


@pytest.mark.slow
def test_a_search_in_two_processes(embedder: ImageEmbedder, paths: list[Path]) -> None:
    labels = [index % 2 for index in range(8)]
    model = make_pipeline(embedder, LogisticRegression())
    grid = {"imageembedder__output": ["cls", "pooled"], "imageembedder__normalize": [False, True]}
    search = GridSearchCV(model, grid, cv=2, n_jobs=2, error_score="raise").fit(list(map(str, paths)), labels)
    assert search.best_score_ == 1.0
    assert search.predict(paths).tolist() == labels


@pytest.mark.parametrize(
    ("changes", "images", "words"),
    [
        ({}, "cat.jpg", "got one image, str; wanted a list of images"),
        ({}, np.zeros((3, 2)), "got 2 columns; wanted one, of paths"),
        ({"output": "patch"}, [], "output 'patch' is no vector; wanted cls, mean_patch or pooled"),
        ({"output": "clss"}, [], "output 'clss' is unknown"),
        ({"bundle": "nowhere"}, [], "nowhere: no such bundle"),
    ],
)
def test_misuse_is_found_by_fit(
    embedder: ImageEmbedder, changes: dict[str, Any], images: Any, words: str
) -> None:
    with pytest.raises(MisuseError, match=words):
        embedder.set_params(**changes).fit(images)
