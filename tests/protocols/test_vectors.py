"""The test vectors: the slow reference and the library both give every one of them, byte for byte."""

from __future__ import annotations

import pytest

from tests.protocols import replay_library, replay_reference
from tests.protocols.vector_files import abridged, expanded, load, scenarios

IMPLEMENTATIONS = {"library": replay_library.FUNCTIONS, "reference": replay_reference.FUNCTIONS}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("scenario", scenarios("positive"))
def test_positive(scenario: str, implementation: str) -> None:
    for case in load(scenario)["cases"]:
        made = IMPLEMENTATIONS[implementation][case["function"]](expanded(case["inputs"]))
        found = abridged(made, case["inputs"])
        assert found == case["outputs"], case["name"]
