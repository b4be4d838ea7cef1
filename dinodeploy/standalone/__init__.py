"""`model.pyz`: one file for a device that has Python, numpy, pillow and onnxruntime, and nothing else.

    pack.py                  makes it                    carried.py            finds the bundle inside it
    start.py                 what it does first          typer_on_argparse.py  typer, as far as we use it

Importing this package loads nothing: `start.py` has to run where packages are missing.
"""

from __future__ import annotations

BUNDLE_PREFIX = "bundle/"  # of the bundle's files in the archive
