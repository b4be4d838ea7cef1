"""`model.pyz`: a bundle and the runtime in one file, for a device with Python and few packages.

    pack.py          create the file
    start.py         entry point: are the needed packages installed?
    command_line.py  unpack the bundle; the commands embed, check, inspect and doctor, on argparse

Importing this package imports nothing else, because `start.py` must run where packages are missing.
"""

from __future__ import annotations

BUNDLE_PREFIX = "bundle/"  # of the bundle's files in the archive
