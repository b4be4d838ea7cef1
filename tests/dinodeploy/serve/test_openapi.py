"""The service against its OpenAPI document, by schemathesis: every answer must be documented.

The check "valid data must be accepted" is left out: random bytes fit the schema but are no image.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.processes.live_service import live

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
EXAMPLES = 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of schemathesis and its dependencies
def test_the_service_conforms_to_its_openapi_document(tiny_bundle: Path) -> None:
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    with live(tiny_bundle, max_bytes=1 << 20) as service:
        schema = schemathesis.openapi.from_url(f"{service.base_url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert sorted(f"{one.method.upper()} {one.path}" for one in operations) == [
            "GET /health",
            "GET /metrics",
            "GET /model",
            "GET /ready",
            "GET /search",
            "GET /thumbnail",
            "GET /v1/models",
            "GET /v1/models/{model}",
            "POST /classify",
            "POST /embed",
            "POST /predict",
            "POST /search",
            "POST /v1/embeddings",
        ]
        for operation in operations:
            _fuzz(operation, positive_data_acceptance)
        assert "Traceback" not in service.log.getvalue()


def _fuzz(operation: Any, not_asked: Any) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def answers(case: Any) -> None:
        case.call_and_validate(excluded_checks=[not_asked])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers()
