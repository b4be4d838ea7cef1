"""Python's start-up hook: when the process asks the system to end it is written to $EXIT_TIME."""

import os
import pathlib
import time
from typing import Any

_real = os._exit


def _leave(code: int) -> Any:
    pathlib.Path(os.environ["EXIT_TIME"]).write_text(str(time.monotonic()))
    _real(code)


os._exit = _leave
