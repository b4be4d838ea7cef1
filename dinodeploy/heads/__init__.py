"""Linear heads without torch: train one on engine features, predict with any head in a bundle.

labelled -> features (engine, cached) -> fit (softmax) -> train -> exporters.heads
predict -> write_predictions
"""
