"""docs/serve.md: the programs of "OpenAI-compatible" run as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy import Embedder
from tests.support.images.image_files import encoded
from tests.support.processes.live_service import live

PAGE = (Path(__file__).parents[4] / "docs" / "serve.md").read_text("utf-8")
SECTION = PAGE.partition("## OpenAI-compatible\n")[2].partition("\n## ")[0]
ADDRESS = "http://127.0.0.1:8000"
pytest.importorskip("openai")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_python_and_curl_get_the_embedders_numbers(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.jpg").write_bytes(encoded("chelsea"))
    start, command = re.findall(r"^```sh\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
    (program,) = re.findall(r"^```python\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
    name = start.partition("--served-model-name ")[2].strip()
    with live(tiny_bundle, served_model_name=name) as service:
        url = str(service.base_url).rstrip("/")
        names: dict[str, Any] = {}
        exec(compile(program.replace(ADDRESS, url), "serve.md", "exec", dont_inherit=True), names)
        names["client"].close()
        ran = subprocess.run(
            ["bash", "-c", command.replace(ADDRESS, url)], capture_output=True, text=True, check=True
        )
    by_curl = json.loads(ran.stdout)["data"][0]["embedding"]
    with Embedder.open(tiny_bundle, threads=1) as embedder:
        wanted = embedder.encode("cat.jpg", normalize=True)
    np.testing.assert_allclose(names["vector"], wanted, atol=1e-6)
    np.testing.assert_array_equal(np.float32(names["vector"]), np.float32(by_curl))
