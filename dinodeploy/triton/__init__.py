"""`dinodeploy triton`: write a model repository for NVIDIA's Triton Inference Server from a bundle.

repository.py         the three models and the files of each, config.pbtxt without protobuf
preprocess_model.py   runs inside Triton: an image's bytes -> the engine's input
"""
