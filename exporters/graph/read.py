"""Read an ONNX file; its external weights stay on disk until they are used."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError

from dinodeploy.bundle.manifest import PLAIN_NAME
from dinodeploy.errors import BundleError, reason_of


def read_onnx(path: Path) -> ir.Model:
    """The model in `path`. Raises BundleError if it is not ONNX, or reads weights outside its folder."""
    try:
        model = ir.load(path)
    except (DecodeError, ir.serde.SerdeError, OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path} is not an ONNX file: {reason_of(error)}") from error
    if not len(model.graph):
        raise BundleError(f"{path} is not an ONNX file: it has no graph")
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and not PLAIN_NAME.fullmatch(str(tensor.location)):
            place = str(tensor.location)
            raise BundleError(
                f"{path}: weight {value.name!r} is in {place!r}; wanted a file beside the graph"
            )
    return model
