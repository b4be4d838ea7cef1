"""Decoding in processes: images are decoded into memory that they share with this process.

    pool.py      this process: who decodes what, time limits, replacement of processes that die
    worker.py    one process: read, decode, preprocess, until its input ends
    ring.py      the shared memory: slots of one image each
    messages.py  what travels between them, several images per message; never pixels

Threads hold the interpreter for 0.6 to 1.5 ms per image, so they cannot deliver more than about a thousand
images per second, however many cores there are (`benchmarks/feed.py`). `hardware/child_process.py` starts and
ends the processes.
"""
