"""Contract tests of backends whose engine runs elsewhere: vectors are means of the last layer."""

from __future__ import annotations

import pytest
from backend_contract import CELLS, BackendContract, Make

from cell2sen.backend import Unsupported


class ServedContract(BackendContract):
    """The contract, less other poolings and layers, attention maps and expectations."""

    supports = frozenset({"embed", "generate", "draw", "guide", "draw_guided", "score"})

    def test_poolings_and_layers_differ(self, make: Make) -> None:
        backend = make()
        for options in ({"pooling": "last"}, {"pooling": "genes"}, {"layer": 1}, {"attention_for": [0]}):
            with pytest.raises(Unsupported, match=r"last layer only.*use the backend transformers"):
                backend.embed(CELLS[:1], **options)  # type: ignore[arg-type]

    def test_unknown_choices(self, make: Make) -> None:
        backend = make()
        for rows in (CELLS, []):
            with pytest.raises(ValueError, match=r"pooling 'max'.*mean.*genes.*last"):
                backend.embed(rows, pooling="max")  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=r"no layer 3.*0 .*2"):
                backend.embed(rows, layer=3)
        with pytest.raises(ValueError, match=r"rows \[5\]"):
            backend.embed(CELLS, attention_for=[0, 5])
