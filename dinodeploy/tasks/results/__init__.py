"""Predictions as files: JSON lines, COCO JSON, images, overlays, videos.

rows        the row of an image; rle: its masks
files       the images of one prediction: maps, overlays (draw), GeoTIFF
store       a directory in the making, shard by shard (pending); a killed run resumes
finish      what is made of all rows: COCO JSON (coco), overlay videos, the HTML page
"""
