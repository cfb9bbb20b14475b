"""spec.py: split sizes and their messages."""

import numpy as np
import pytest

from fusedsplit.layers.spec import equal_sizes, split_sizes


@pytest.mark.parametrize(
    ("split", "units", "branches", "expected"),
    [
        (None, 8, 2, (4, 4)),
        (2, 8, 2, (4, 4)),
        ([3, 5], 8, 2, (3, 5)),
        ((1, 6, 1), 8, 3, (1, 6, 1)),
        (np.array([2, 6]), 8, 2, (2, 6)),
        (None, 1, 1, (1,)),
        (17, 34, 17, (2,) * 17),
    ],
    ids=str,
)
def test_sizes(split, units, branches, expected):
    sizes = split_sizes(split, units, branches)
    assert sizes == expected
    assert all(type(size) is int for size in sizes)


@pytest.mark.parametrize(
    ("split", "units", "branches", "message"),
    [
        ([3, 4], 8, 2, r"sum to the stem's 8 units. Received: split=\[3, 4\], which sums to 7"),
        ([8], 8, 2, r"expected 2 sizes, one for each branch. Received: split=\[8\]"),
        (3, 9, 2, "expected 2 parts, one for each branch. Received: split=3"),
        (None, 8, 3, r"do not divide equally \(nearest: split=\[3, 3, 2\]\)"),
        ([0, 8], 8, 2, "a list of positive ints"),
        ([-1, 9], 8, 2, "a list of positive ints"),
        ([4.0, 4.0], 8, 2, "a list of positive ints"),
        ("4,4", 8, 2, "a list of positive ints. Received: split='4,4'"),
        (2.0, 8, 2, "a list of positive ints. Received: split=2.0"),
        (True, 8, 1, "a list of positive ints. Received: split=True"),
    ],
    ids=str,
)
def test_bad_splits_echo_what_was_received(split, units, branches, message):
    with pytest.raises(ValueError, match=message):
        split_sizes(split, units, branches)


@pytest.mark.parametrize(("units", "parts"), [(8, 3), (7, 7), (100, 9)])
def test_equal_sizes(units, parts):
    sizes = equal_sizes(units, parts)
    assert sum(sizes) == units
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1
