"""8-bit recipes: calibrate, smooth, choose a quantization scheme, write it into the graph.

    images ─> observe ─> smoothing ─> scheme ─> sensitivity ─┬─> fold_scheme (weights)
                                                             └─> write (graph)

`calibrate.py` runs the steps up to the fork, `exporters/bundle/write_bundle.py` runs both branches.
"""
