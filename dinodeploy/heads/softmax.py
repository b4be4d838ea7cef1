"""Softmax regression with an L2 penalty, minimised by scipy's L-BFGS-B.

    minimise  sum_i w_i CE(y_i, softmax(x_i W + b)) / sum_i w_i  +  l2/2 |W|^2

The problem is convex, so the starting point changes only the time. Targets may be soft: a patch on a border
belongs to two classes. With w = 1 this is scikit-learn's LogisticRegression(C=1/(l2 N)).

Fitting needs scipy (the extra `heads`); predicting does not.

Shapes: N rows, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray
from dinodeploy.errors import UnavailableError

MAX_STEPS = 300
GRADIENT_TOLERANCE = 1e-5  # largest gradient entry at the end, relative to the largest at zero weights
LOSS_TOLERANCE = 1e-9  # smallest relative decrease of a step: below it float32 rounding dominates


@dataclass(frozen=True)
class Linear:
    """x -> x W + b, W [F,K], b [K]."""

    weight: AnyArray
    bias: AnyArray

    def logits(self, x: AnyArray) -> AnyArray:
        """x [...,F] -> [...,K]."""
        return x @ self.weight + self.bias


def require_scipy() -> Any:
    """`scipy.optimize`. Raises UnavailableError where scipy is missing."""
    try:
        from scipy import optimize
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "training a head needs scipy, which is missing; pip install 'dinodeploy[heads]'"
        ) from error
    return optimize


def fit_softmax(
    x: AnyArray, y: AnyArray, weights: AnyArray, l2: float, start: Linear | None = None
) -> Linear:
    """Fit x [N,F] float32 to the targets y [N,K], whose rows sum to one, with row weights [N].

    Features should have similar scales (`standardise`). A `start` near the solution saves time.
    Raises UnavailableError where scipy is missing.
    """
    features, classes = x.shape[1], y.shape[1]
    share = (weights / weights.sum()).astype(np.float32)[:, None]

    def loss(flat: AnyArray) -> tuple[float, AnyArray]:
        both = flat.reshape(features + 1, classes)
        weight, bias = both[:-1], both[-1]
        logits = x @ weight.astype(np.float32) + bias.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        norm = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        entropy = float((share * y * (norm - logits)).sum(dtype=np.float64))
        off = share * (np.exp(logits - norm) - y)
        gradient = np.concatenate([x.T @ off + l2 * weight, off.sum(axis=0)[None]])
        return entropy + 0.5 * l2 * float((weight**2).sum()), gradient.ravel().astype(np.float64)

    at = zeros = np.zeros((features + 1) * classes)
    if start is not None:
        at = np.concatenate([start.weight, start.bias[None]]).astype(np.float64).ravel()
    smallest = GRADIENT_TOLERANCE * float(np.abs(loss(zeros)[1]).max())
    limits = {"maxiter": MAX_STEPS, "gtol": smallest, "ftol": LOSS_TOLERANCE}
    found = require_scipy().minimize(loss, at, jac=True, method="L-BFGS-B", options=limits)
    both = found.x.reshape(features + 1, classes)
    return Linear(both[:-1], both[-1])


@dataclass(frozen=True)
class Scale:
    """Shift and divisor of each feature while a head is fitted. [F] each."""

    mean: AnyArray
    std: AnyArray

    def __call__(self, x: AnyArray) -> AnyArray:
        return ((x - self.mean) / self.std).astype(np.float32)

    def undo(self, fitted: Linear) -> Linear:
        """The same map for unscaled features."""
        weight = fitted.weight / self.std[:, None]
        return Linear(weight, fitted.bias - self.mean @ weight)


def standardise(x: AnyArray) -> Scale:
    """Mean and standard deviation of every feature of x [N,F]; a constant feature is divided by one."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    return Scale(mean, np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0))
