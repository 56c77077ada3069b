"""clean_caption against pre_caption of RaSa and MAMBA-TBPS: 83 descriptions at three lengths, equal strings."""

import json

import pytest

from dataset.captions import clean_caption
from tests.helpers.paths import VECTORS

ROWS = json.loads((VECTORS / "text" / "captions.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("max_words", [90, 75, 10])
def test_clean_caption(max_words):
    assert len(ROWS) == 83
    expected = [row[f"pre_caption_{max_words}"] for row in ROWS]
    assert [clean_caption(row["raw"], max_words) for row in ROWS] == expected
