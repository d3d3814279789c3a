"""Which ids make up which unit, and what may be demoted where."""

import re

import numpy as np
import pytest

from actors.worker.units import Units
from kernels.decoder import KvTier

UNITS = Units((KvTier("f16", 0, 8, 1, 10), KvTier("q8", 8, 2, 4, 20), KvTier("q4", 16, 2, 4, 10)))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_ids_belong_to_units() -> None:
    assert UNITS.count == 24
    assert UNITS.tier_of(np.arange(24)).tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert np.flatnonzero(UNITS.begins(np.arange(24))).tolist() == [*range(8), 8, 12, 16, 20]
    assert UNITS.pages_of(ints(8, 20)).tolist() == [[8, 9, 10, 11], [20, 21, 22, 23]]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ([7, 0, 3, 2], [12]),
        ([8, 9, 10, 11], [16]),
        ([8, 9, 10, 11, 0, 1, 2, 3], [16, 8]),  # into the block that has just moved on
    ],
)
def test_what_may_be_demoted(source: list, target: list) -> None:
    assert UNITS.misplaced(ints(*source), ints(*target)) is None


@pytest.mark.parametrize(
    ("source", "target", "problem"),
    [
        ([0, 1, 2], [8], "3 pages for 1 blocks of 4 pages"),
        ([0, 1, 2, 3], [9], "page 9 is not the first of a quantized block"),
        ([0, 1, 2, 3], [4], "page 4 is not the first of a quantized block"),
        ([0, 1, 2, 8], [12], r"pages \[0, 1, 2, 8\] for block 12"),
        ([8, 9, 11, 10], [16], r"pages \[8, 9, 11, 10\] for block 16"),
        ([9, 10, 11, 12], [16], r"pages \[9, 10, 11, 12\] for block 16"),
        ([8, 9, 10, 11], [12], r"pages \[8, 9, 10, 11\] for block 12"),
        ([16, 17, 18, 19], [8], r"pages \[16, 17, 18, 19\] for block 8"),
        ([0, 1, 2, 2], [8], "demoted, or a block filled, twice"),
        ([0, 1, 2, 3, 4, 5, 6, 7], [8, 8], "demoted, or a block filled, twice"),
        ([0, 1, 2, 3, 8, 9, 10, 11], [8, 16], "block 8 is filled and demoted by the same plan"),
    ],
)
def test_what_may_not(source: list, target: list, problem: str) -> None:
    assert re.search(problem, UNITS.misplaced(ints(*source), ints(*target)) or "")
