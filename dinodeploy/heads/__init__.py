"""Linear heads without torch: train one on engine features.

labelled -> features (engine, cached) -> fit (softmax) -> train -> exporters.heads
"""
