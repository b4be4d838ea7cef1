"""How far our fp32 model may be from each reference, and how far it was when last measured.

Numbers are relative Frobenius errors of CLS, storage and patch tokens, the worst of the three kinds, of
three photographs and of three sizes. Limits are three times the worst of them or more, for other processors
round differently; none is wider than what the project accepts. To measure again and print this table:

    OMP_NUM_THREADS=1 python -m tests.parity.tolerances

Measured on an x86-64 CPU with AVX2, torch 2.13, transformers 5.23, timm 1.0.31. Zero is no mistake: timm
asks torch for the same products in the same order as we do; elsewhere it need not be zero.
"""

from __future__ import annotations

from dataclasses import dataclass

ACCEPTED = 1e-5  # against another implementation
ACCEPTED_ROUNDING = 2e-6  # against our own model in float64


@dataclass(frozen=True)
class Tolerance:
    """One comparison: what is allowed, and what was found."""

    limit: float
    measured: float


# (reference, model of tests/parity/implementations.py)
TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("transformers", "mlp"): Tolerance(2e-06, 4.0e-07),
    ("transformers", "swiglu"): Tolerance(2e-06, 5.6e-07),
    ("transformers", "seven_b"): Tolerance(2e-06, 5.3e-07),
    ("transformers", "vit_small"): Tolerance(2e-06, 5.1e-07),
    ("timm", "mlp"): Tolerance(2e-06, 0.0),
    ("timm", "mlp as released"): Tolerance(2e-06, 0.0),
    ("timm", "swiglu"): Tolerance(2e-06, 0.0),
    ("timm", "seven_b"): Tolerance(2e-06, 0.0),
    ("timm", "vit_small"): Tolerance(2e-06, 0.0),
    ("float64", "mlp"): Tolerance(2e-06, 5.8e-07),
    ("float64", "swiglu"): Tolerance(2e-06, 7.4e-07),
    ("float64", "seven_b"): Tolerance(2e-06, 7.2e-07),
    ("float64", "vit_small"): Tolerance(2e-06, 5.8e-07),
}


def main() -> None:
    """Measure every row and print it as it stands in the table."""
    from tests.parity.implementations import measure

    for (reference, model), tolerance in TOLERANCES.items():
        measured = max(measure(reference, model).values())
        print(f'    ("{reference}", "{model}"): Tolerance({tolerance.limit:g}, {measured:.1e}),', flush=True)


if __name__ == "__main__":
    main()
