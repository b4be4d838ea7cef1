"""Numerical parity: golden cases, the judge, receipts, bisection and reports."""
