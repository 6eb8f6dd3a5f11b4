"""Settings of an adaptation: values that cannot be used are refused."""

from __future__ import annotations

from typing import Any

import pytest

from cell2sen.training.adaptation.settings import Adaptation


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"next_gene": 0, "two_views": 0}, "not both 0"),
        ({"two_views": -1}, "at least 0"),
        ({"temperature": 0}, "above 0"),
        ({"learning_rate": 0}, "above 0"),
        ({"batch_size": 1}, "at least 2"),
        ({"start_share": 1}, "below 1"),
        ({"gene_part": -1}, "at least 0"),
    ],
)
def test_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Adaptation(**values)


def test_one_loss_is_enough() -> None:
    assert Adaptation(next_gene=0).two_views > 0
    assert Adaptation(two_views=0).next_gene > 0
