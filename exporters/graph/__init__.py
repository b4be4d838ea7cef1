"""ONNX graphs: clean, edit, lint, fuse and write them."""
