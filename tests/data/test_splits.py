"""Held-out cells, barcodes and hashes of cell names."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from cell2sen.data.splits import are_counted, barcode, equal_by_chance, held_out_cells, sha256_of_names

OBS = pd.DataFrame({"donor": [f"d{row % 4}" for row in range(40)]})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AAACATACAACCAC-1_ctrl", "AAACATACAACCAC"),
        ("lane2_AAACATACAACCAC-1", "AAACATACAACCAC"),
        ("cell_1", "cell_1"),
        ("AAACATACAACCAC", "AAACATACAACCAC"),
        ("h_1_1_bc0165", "h_1_1_bc0165"),
        ("CATTAGGACAs", "CATTAGGACAs"),
        ("sample_genome:AAACCCAAGGCTCTATx", "AAACCCAAGGCTCTAT"),  # velocyto
        ("GTCACGGG_AAACATAC_1", "GTCACGGG_AAACATAC"),  # split-pool: each part is that of many cells
        ("GTCACGGG.AAACATAC", "GTCACGGG_AAACATAC"),
        ("ACGTACGT_AAACATACAACCAC-1", "AAACATACAACCAC"),  # the index of a sample in front
    ],
)
def test_barcode(name: str, expected: str) -> None:
    assert barcode(name) == expected


def test_barcodes_alone_are_equal_by_chance() -> None:
    names = [f"ACGTACGTACGTA{a}{b}{c}-1" for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    assert equal_by_chance(names, names) == 64 * 64 / 737_280
    assert equal_by_chance([f"s1_{name}" for name in names], names) == 0
    assert equal_by_chance(["01_02_03", "01_02_04"], ["01_02_03__s1"]) == 2 / 737_280
    assert equal_by_chance(["GTCACGGG"], ["GTCACGGA"]) == 1 / 4**8
    assert equal_by_chance([], names) == 0


def test_hash_is_of_the_sorted_names() -> None:
    assert sha256_of_names(["b", "a"]) == hashlib.sha256(b"a\nb").hexdigest() == sha256_of_names(["a", "b"])


def test_share_of_single_cells() -> None:
    held_out = held_out_cells(OBS, by="cell", share=0.25)
    assert held_out.sum() == 10
    np.testing.assert_array_equal(held_out, held_out_cells(OBS, by="cell", share=0.25))
    assert (held_out != held_out_cells(OBS, by="cell", share=0.25, seed=1)).any()
    assert not held_out_cells(OBS, by="cell", share=0.0).any()


def test_whole_groups() -> None:
    held_out = held_out_cells(OBS, by="donor", share=0.25)
    assert OBS["donor"][held_out].nunique() == 1
    assert held_out.sum() == 10
    named = held_out_cells(OBS, by="donor", share=0.25, values=("d1", "d3"))
    np.testing.assert_array_equal(named, OBS["donor"].isin(["d1", "d3"]))
    with pytest.raises(ValueError, match=r"no \['d9'\] to hold out; available: \['d0', 'd1', 'd2', 'd3'\]"):
        held_out_cells(OBS, by="donor", share=0.25, values=("d9",))
    with pytest.raises(KeyError, match="no column 'batch'"):
        held_out_cells(OBS, by="batch", share=0.25)


def test_controls_are_held_out_singly() -> None:
    control = np.arange(len(OBS)) < 20
    held_out = held_out_cells(OBS, by="donor", share=0.5, values=("d2",), control=control)
    np.testing.assert_array_equal(held_out[20:], OBS["donor"][20:] == "d2")
    np.testing.assert_array_equal(held_out[:20], held_out_cells(OBS, by="cell", share=0.5)[:20])


def test_groups_are_text_and_cells_without_a_group_are_not_held_out(caplog: pytest.LogCaptureFixture) -> None:
    obs = pd.DataFrame({"donor": [1.0, 2.0, np.nan, 1.0], "batch": [b"a", b"b", b"NA", b"a"]})
    for by, values in (("donor", ("1",)), ("donor", ("1.0",)), ("batch", ("a",))):
        held_out = held_out_cells(obs, by=by, share=0.5, values=values)
        assert held_out.tolist() == [True, False, False, True]
    assert "1 of 4 cells have no value in obs['donor']: they are not held out" in caplog.text
    assert not held_out_cells(obs, by="donor", share=0.9)[2]
    with pytest.raises(ValueError, match=r"no \['3'\] to hold out; available: \['1', '2'\]"):
        held_out_cells(obs, by="donor", share=0.5, values=("3",))


@pytest.mark.parametrize(
    "pattern", ["{}", "cell_{}", "Cell{}", "cell{}", "X{}", "{}-1", "cell {}", "obs_{}", "BC{}", "{}-batch1"]
)
def test_names_that_count_cells(pattern: str) -> None:
    assert are_counted([pattern.format(number) for number in range(50)])
    assert are_counted([pattern.format(number) for number in range(0, 5000, 100)])  # a part of a file


@pytest.mark.parametrize(
    "names",
    [
        ["AAACATACAACCAC-1", "AAACATACAACCAG-1"],
        ["s1-0", "s1-1"],
        ["GSM123_0", "GSM123_1"],
        ["0", "1", "AAACATACAACCAC-1"],
        ["52341234", "51234521"],  # identifiers of a census
        ["plate1_A1", "plate1_A2"],
        [],
    ],
)
def test_names_that_identify_cells(names: list[str]) -> None:
    assert not are_counted(names)
