"""Decoding of untrusted images in processes that can be killed.

    pool.py      the processes: scheduling, deadlines, replacement       (in the service)
    process.py   start and end of one process
    worker.py    one process: limits, inspect, decode, preprocess         (a process of its own)
    wire.py      what travels between them
    formats.py   which formats are accepted, and what their structure may cost

The module of a worker imports numpy and Pillow only, so a new process is ready within 0.1 s.
"""
