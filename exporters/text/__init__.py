"""Export dino.txt: one bundle with an image graph and a text graph.

backbone + vision head ─> aligned.py ─> the backbone's own path (exporters/bundle) ─> image graph
text tower ─> exporters/trace/text_tower.py ─> graph.py ─> text graph
"""
