"""The server against its own OpenAPI document: whatever is asked, it answers as that says."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from sightline.serving.app import create_app
from sightline.serving.service import Service, State
from sightline.testing import HashEmbedder

pytestmark = pytest.mark.slow
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, negative_data_rejection,
]  # fmt: skip


MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def document() -> Any:
    """The document of an application in this process."""
    service = Service(HashEmbedder(), names=["m"])
    service.state = State.READY
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(service, access_log=False))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_it_answers_as_its_document_says(document: Any, mode: GenerationMode) -> None:
    """No 5xx; no status, media type or form that the document doesn't have; what it doesn't allow is refused."""
    asked = 0
    for operation in document.get_all_operations():

        @given(case=operation.ok().as_strategy(generation_mode=mode))
        @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def answers(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(checks=CHECKS)

        try:
            answers()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # there is no wrong way to ask for what takes nothing
    assert asked > 100
