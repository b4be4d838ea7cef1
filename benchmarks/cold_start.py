"""Cold start: seconds for the import, and for the first embedding of a new process.

    .venv/bin/python benchmarks/cold_start.py                        # the imports
    .venv/bin/python benchmarks/cold_start.py --bundle bundle        # the first embedding, too

Each round runs every program once, each in a new process, so that other load on the machine affects all of
them. Seconds are wall-clock from the first line of the program, without the start of Python. The ratio is to
`import numpy` of the same round; the median over rounds is printed. The bundle must have passed `dinodeploy
check` on this machine, or the first embedding includes the parity check.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from shared import make_parser, synthetic_image

PROGRAMS = {
    "import numpy": "import numpy",
    "import dinodeploy": "import dinodeploy",
    "from dinodeploy import Embedder": "from dinodeploy import Embedder",
}
EMBED = """from dinodeploy import Embedder
with Embedder.open(sys.argv[1], device={device!r}) as embedder:
    embedder.embed([sys.argv[2]])"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--bundle", type=Path, help="has passed `check` here")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    programs = dict(PROGRAMS)
    if options.bundle:
        programs["first embedding of a JPEG"] = EMBED.format(device=options.device)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.jpg"
        synthetic_image(0).save(image, quality=85)
        arguments = [str(options.bundle), str(image)]
        rounds = [
            {name: seconds(program, arguments) for name, program in programs.items()}
            for _ in range(options.rounds + 1)
        ][1:]  # the first one fills the disk cache
    for name in programs:
        median = statistics.median(one[name] for one in rounds)
        ratio = statistics.median(one[name] / one["import numpy"] for one in rounds)
        print(f"{name:32} {median:7.3f} s, {ratio:6.2f} x import numpy")


def seconds(program: str, arguments: list[str]) -> float:
    """Seconds that `program` takes in a new Python process."""
    timed = (
        f"import sys, time\nstarted = time.perf_counter()\n{program}\nprint(time.perf_counter() - started)"
    )
    run = subprocess.run(
        [sys.executable, "-c", timed, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(run.stdout)


if __name__ == "__main__":
    main()
