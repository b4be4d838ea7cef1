"""Building TensorRT engines, one step a file. `add_engine.py` tells the story; the others are its words.

target.py          which TensorRT: `tensorrt` 10.3 to 11.x or `tensorrt_rtx` 1.7 and later
device.py          the GPU and the driver of this machine
profiles.py        the shapes an engine takes
options.py         what else may be asked of a build
api.py             which names of TensorRT's Python API we use
messages.py        what TensorRT says while it works
progress.py        how far it is, and how it is stopped
network.py         model.onnx, parsed
configure.py       options as a builder configuration
timing_cache.py    kernel timings kept from one build to the next
build_engine.py    all of that, in order: a plan in memory
inspect_engine.py  what the plan holds, as JSON
add_engine.py      the plan becomes part of a bundle
"""
