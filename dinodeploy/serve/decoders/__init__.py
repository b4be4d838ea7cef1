"""Decoding of untrusted images in processes that can be killed.

    pool.py      the processes: scheduling, deadlines, replacement       (in the service)
    worker.py    one process: limits, inspect, decode, preprocess         (a process of its own)
    wire.py      what travels between them
    formats.py   which formats are accepted, and what their structure may cost

`hardware/child_process.py` starts and ends them. The module of a worker imports numpy and Pillow only, so a
new process is ready within 0.1 s.
"""
