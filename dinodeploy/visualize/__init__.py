"""Maps of patch features: PCA colours, attention, similarity, foreground (`dinodeploy visualize`).

images ──> engine ──> looks ──> maps (WHAT) ──> PNG files, one HTML page, a video
"""
