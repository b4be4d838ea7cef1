"""Softmax regression with an L2 penalty, by L-BFGS, in numpy.

    minimise  sum_i w_i CE(y_i, softmax(x_i W + b)) / sum_i w_i  +  l2/2 |W|^2

Convex, so where it starts decides nothing but the time. Targets may be soft: a patch that lies on a border
belongs to two classes. With w = 1 this is scikit-learn's LogisticRegression(C=1/(l2 N)).

Source: Nocedal & Wright, Numerical Optimization, algorithms 7.4 and 7.5.
Shapes: N rows, F features, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dinodeploy.arrays import AnyArray

MEMORY = 10  # pairs that L-BFGS keeps
MAX_STEPS = 300
TOLERANCE = 1e-5  # of the gradient, relative to that at zero weights
ARMIJO = 1e-4
HALVINGS = 30


@dataclass(frozen=True)
class Linear:
    """x -> x W + b, W [F,K], b [K]."""

    weight: AnyArray
    bias: AnyArray

    def logits(self, x: AnyArray) -> AnyArray:
        """x [...,F] -> [...,K]."""
        return x @ self.weight + self.bias


def fit_softmax(
    x: AnyArray, y: AnyArray, weights: AnyArray, l2: float, start: Linear | None = None
) -> Linear:
    """x [N,F] float32, targets y [N,K] that sum to one, weights [N] -> the best linear map.

    Features should be of like scale (`standardise`). `start`: a solution close by, to be quicker.
    """
    features, classes = x.shape[1], y.shape[1]
    share = (weights / weights.sum()).astype(np.float32)[:, None]
    ones = np.zeros((features + 1) * classes)
    if start is not None:
        ones = np.concatenate([start.weight, start.bias[None]]).astype(np.float64).ravel()

    def loss(flat: AnyArray) -> tuple[float, AnyArray]:
        wide = flat.reshape(features + 1, classes)
        weight, bias = wide[:-1], wide[-1]
        logits = x @ weight.astype(np.float32) + bias.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        norm = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        value = float((share * y * (norm - logits)).sum(dtype=np.float64)) + 0.5 * l2 * float(
            (weight**2).sum()
        )
        off = share * (np.exp(logits - norm) - y)
        return value, np.concatenate([x.T @ off + l2 * weight, off.sum(axis=0)[None]]).ravel()

    flat = _minimise(loss, ones)
    wide = flat.reshape(features + 1, classes)
    return Linear(wide[:-1], wide[-1])


def _minimise(loss: Callable[[AnyArray], tuple[float, AnyArray]], start: AnyArray) -> AnyArray:
    """L-BFGS with halved steps until the loss falls enough."""
    at = start
    value, gradient = loss(at)
    enough = TOLERANCE * float(np.linalg.norm(loss(np.zeros_like(start))[1]))
    pairs: deque[tuple[AnyArray, AnyArray]] = deque(maxlen=MEMORY)
    for _ in range(MAX_STEPS):
        if float(np.linalg.norm(gradient)) <= enough:
            break
        direction = -_times_inverse_hessian(gradient, pairs)
        slope = float(direction @ gradient)
        step = 1.0 if pairs else min(1.0, 1.0 / max(float(np.linalg.norm(gradient)), 1e-12))
        for _ in range(HALVINGS):
            there, (new_value, new_gradient) = at + step * direction, loss(at + step * direction)
            if new_value <= value + ARMIJO * step * slope:
                break
            step /= 2
        else:
            break  # rounding: no step makes it less
        moved, turned = there - at, new_gradient - gradient
        if float(moved @ turned) > 1e-12 * float(turned @ turned):
            pairs.append((moved, turned))
        at, value, gradient = there, new_value, new_gradient
    return at


def _times_inverse_hessian(gradient: AnyArray, pairs: deque[tuple[AnyArray, AnyArray]]) -> AnyArray:
    """The two-loop recursion."""
    q = gradient.copy()
    kept = []
    for moved, turned in reversed(pairs):
        rho = 1.0 / float(moved @ turned)
        alpha = rho * float(moved @ q)
        q -= alpha * turned
        kept.append((moved, turned, rho, alpha))
    if pairs:
        moved, turned = pairs[-1]
        q *= float(moved @ turned) / float(turned @ turned)
    for moved, turned, rho, alpha in reversed(kept):
        q += (alpha - rho * float(turned @ q)) * moved
    return q


@dataclass(frozen=True)
class Scale:
    """What features are shifted and divided by while a head is fitted. [F] each."""

    mean: AnyArray
    std: AnyArray

    def __call__(self, x: AnyArray) -> AnyArray:
        return ((x - self.mean) / self.std).astype(np.float32)

    def undo(self, fitted: Linear) -> Linear:
        """The same map for features as they are."""
        weight = fitted.weight / self.std[:, None]
        return Linear(weight, fitted.bias - self.mean @ weight)


def standardise(x: AnyArray) -> Scale:
    """Mean and standard deviation of every feature of x [N,F]; one that never changes is divided by one."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    return Scale(mean, np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0))
