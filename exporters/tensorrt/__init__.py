"""Build TensorRT engines, one step per file. Start reading at `add_engine.py`.

target.py          which TensorRT builds: `tensorrt` 10.3 to 11.x or `tensorrt_rtx` from 1.7
device.py          the GPU and driver of this machine
profiles.py        optimisation profiles: the input shapes that an engine accepts
options.py         all other build options
api.py             the names of TensorRT's Python API that we use
messages.py        TensorRT's log and errors
progress.py        build progress, and stopping a build
network.py         parse model.onnx
configure.py       options and profiles -> builder configuration
timing_cache.py    reuse kernel timings in later builds
build_engine.py    all steps above in order; returns a plan (a serialised engine) in memory
inspect_engine.py  describe a plan as JSON
add_engine.py      add the plan to a bundle
"""
