"""What patch features look like: PCA maps, attention, similarity, foreground (`dinodeploy visualize`).

pictures ──> engine ──> looks ──> maps (WHAT) ──> PNG files, one HTML page, a video
"""
