"""The reference pages say what the tables in the code say."""

from pathlib import Path

import pytest

from v2x_loadtest.pages import PAGES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name):
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), f"run scripts/docs: docs/{name} is stale"
