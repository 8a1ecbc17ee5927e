"""Each rule of the protocol that can be broken here is missed by some world, and the page on testing lists them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutations import MUTATIONS, Mutation, catch

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_rule_shows(mutation: Mutation) -> None:
    verdict = catch(mutation)
    assert verdict is not None, f"{mutation.worlds} worlds of the kinds {mutation.kinds} do not show it"


def test_the_page_lists_the_mutations() -> None:
    page = PAGE.read_text()
    missing = [mutation.name for mutation in MUTATIONS if f"| {mutation.name} |" not in page]
    assert not missing
