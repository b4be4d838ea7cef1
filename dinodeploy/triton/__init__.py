"""`dinodeploy triton`: a bundle as a model repository for NVIDIA's Triton Inference Server.

repository.py         the three models that are written, and what goes into each
pbtxt.py              config.pbtxt as text: no protobuf needed to write one
preprocess_model.py   runs inside Triton: a picture's bytes -> the engine's input, by our own code
"""
