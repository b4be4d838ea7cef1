"""`ImageEmbedder`: a bundle as a transformer of scikit-learn, from images to vectors.

    model = make_pipeline(ImageEmbedder("bundle"), StandardScaler(), LogisticRegression())
    model.fit(paths, labels)

Source: https://scikit-learn.org/stable/developers/develop.html
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from dinodeploy.arrays import AnyArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.images.inputs import is_one_image
from dinodeploy.integrations.opened import opened


class ImageEmbedder(TransformerMixin, BaseEstimator):
    """Turns images into vectors. Nothing is trained: `fit` opens the bundle and checks the options.

    bundle: path of a bundle. output: cls, mean_patch, pooled, or another output with one vector per image.
    normalize, imgsz, batch_size: as in `Embedder.encode`. device, threads: as in `Embedder.open`.

    X is a list of images as `Embedder.encode` takes them (paths, URLs, bytes, Pillow images, uint8 arrays),
    an array [N,H,W,3], or a column of paths, also of a data frame: [N] or [N,1]. The transformer is pickled
    as its parameters; each process opens the bundle once. Raises as `Embedder.open` and `Embedder.encode`.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] = "bundle",
        *,
        output: str = "cls",
        normalize: bool = False,
        imgsz: int | tuple[int, int] | None = None,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int = 8,
    ) -> None:
        self.bundle = bundle
        self.output = output
        self.normalize = normalize
        self.imgsz = imgsz
        self.device = device
        self.threads = threads
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None) -> ImageEmbedder:
        """Open the bundle. The images are only counted."""
        _listed(X)
        self.n_features_out_ = int(self._encode([]).shape[1])
        return self

    def transform(self, X: Any) -> AnyArray:
        """Images -> float32 [N, n_features_out_]."""
        check_is_fitted(self)
        return self._encode(_listed(X))

    def get_feature_names_out(self, input_features: Any = None) -> AnyArray:
        """`cls0`, `cls1` …: the output's name and the index."""
        check_is_fitted(self)
        return np.array([f"{self.output}{index}" for index in range(self.n_features_out_)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True  # images are checked when they are decoded
        return tags

    def _embedder(self) -> Embedder:
        return opened(self.bundle, device=self.device, threads=self.threads)

    def _encode(self, images: list[Any]) -> AnyArray:
        options: dict[str, Any] = {"imgsz": self.imgsz, "batch_size": self.batch_size}
        found = self._embedder().encode(images, output=self.output, normalize=self.normalize, **options)
        if not isinstance(found, np.ndarray) or found.ndim != 2:
            raise MisuseError(f"output {self.output!r} is no vector; wanted cls, mean_patch or pooled")
        return found


def _listed(X: Any) -> list[Any]:
    """The images of `X`. Raises MisuseError for one image, and for a table of several columns."""
    if hasattr(X, "to_numpy"):  # of a data frame
        X = X.to_numpy()
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype != np.uint8:
        if X.shape[1] != 1:
            raise MisuseError(f"got {X.shape[1]} columns; wanted one, of paths")
        X = X[:, 0]
    if not isinstance(X, np.ndarray) and is_one_image(X):
        raise MisuseError(f"got one image, {type(X).__name__}; wanted a list of images")
    return list(X)
