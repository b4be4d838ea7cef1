"""Ask a Triton server for embeddings, set up by `dinodeploy triton`; compare them with the bundle's.

    python examples/triton_client.py dinov3_vit_small cat.jpg dog.jpg
    python examples/triton_client.py dinov3_vit_small cat.jpg --url gpu-box:8001 --bundle bundle

`pip install 'tritonclient[grpc]'`. With --bundle the same images are also embedded here by the verified
engine, and the largest difference is printed: do that once on every new server.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="the ensemble's name")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--output", default="cls")
    parser.add_argument("--bundle", type=Path, help="compare with this bundle, run here")
    options = parser.parse_args()
    with triton.InferenceServerClient(options.url) as client:
        values = embed(client, options.model, options.pictures, options.output)
    for picture, row in zip(options.pictures, values, strict=True):
        print(f"{picture}: {options.output} {list(row.shape)}, norm {np.linalg.norm(row):.4f}")
    if options.bundle is not None:
        print(f"largest difference from {options.bundle}: {difference(values, options):.2e}")


def embed(client: Any, model: str, pictures: list[Path], output: str = "cls") -> np.ndarray[Any, Any]:
    """Image files -> one output [B, ...] of the ensemble, float32."""
    files = np.array([[picture.read_bytes()] for picture in pictures], dtype=np.object_)  # [B,1]
    image = triton.InferInput("image", list(files.shape), "BYTES")
    image.set_data_from_numpy(files)
    answer = client.infer(model, [image], outputs=[triton.InferRequestedOutput(output)])
    return np.asarray(answer.as_numpy(output))


def difference(values: np.ndarray[Any, Any], options: argparse.Namespace) -> float:
    """The largest |server - bundle| over all numbers."""
    from dinodeploy import Embedder

    with Embedder.open(options.bundle) as embedder:
        ours = embedder.embed(options.pictures)[options.output]  # from the graph that Triton serves
    return float(np.abs(values - ours).max())


if __name__ == "__main__":
    main()
