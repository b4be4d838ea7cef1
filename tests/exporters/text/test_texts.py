from __future__ import annotations

from exporters.text.texts import CALIBRATION_TEXTS, GOLDEN_TEXTS


def test_golden_texts_differ_in_length_and_script() -> None:
    assert len(set(GOLDEN_TEXTS)) == len(GOLDEN_TEXTS)
    assert "" in GOLDEN_TEXTS
    assert max(len(text.split()) for text in GOLDEN_TEXTS) == 100
    assert sum(not text.isascii() for text in GOLDEN_TEXTS) >= 19
    assert set(GOLDEN_TEXTS) < set(CALIBRATION_TEXTS)
