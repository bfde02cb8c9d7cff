"""Rows of a table by their numbers: generated ones, and those of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcpar.errors import RunError
from hpcpar.worker.data.particles import Particles
from hpcpar.worker.data.user_table import TableOptions, UserTable, check


@pytest.mark.parametrize("regression", [False, True])
def test_generated_rows_depend_on_their_numbers_alone(regression: bool) -> None:
    table = Particles(28, 3, regression=regression)
    features, labels = table.fetch(0, 20_000)
    some, their_labels = table.fetch(8_000, 17_001)
    assert np.array_equal(some, features[8_000:17_001])
    assert np.array_equal(their_labels, labels[8_000:17_001])
    assert features.shape == (20_000, 28)
    assert not np.array_equal(features[:100], Particles(28, 4, regression=regression).fetch(0, 100)[0])


def test_labels_are_two_classes_and_about_as_often_one_as_the_other() -> None:
    _, labels = Particles(28, 0, regression=False).fetch(0, 20_000)
    assert set(np.unique(labels)) == {0.0, 1.0}
    assert 0.35 < labels.mean() < 0.65


def test_levels_leave_fewer_values_than_bins() -> None:
    features, _ = Particles(28, 0, regression=False, levels=8).fetch(0, 100_000)
    assert max(len(np.unique(features[:, feature])) for feature in range(28)) <= 256


def _table(folder: Path, suffix: str) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".csv":
        path.write_text("y,a,b\n" + "".join(f"{row % 2},{row},{row * 10}\n" for row in range(100)))
        return path
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (pip install 'hpcpar[parquet]')")
    from pyarrow import parquet

    rows = range(100)
    columns = {"y": [row % 2 for row in rows], "a": list(rows), "b": [row * 10 for row in rows]}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=30)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_is_read_by_row_numbers(tmp_path: Path, suffix: str) -> None:
    path = _table(tmp_path, suffix)
    features, labels = UserTable(TableOptions(path=str(path))).fetch(25, 65)
    assert np.array_equal(features[:, 0], np.arange(25, 65))
    assert np.array_equal(features[:, 1], np.arange(25, 65) * 10)
    assert np.array_equal(labels, np.arange(25, 65) % 2)
    features, labels = UserTable(TableOptions(path=str(path), label="b")).fetch(0, 2)
    assert np.array_equal(labels, [0, 10])
    assert features.shape == (2, 2)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_with_too_few_rows_and_a_wrong_label_are_told(tmp_path: Path, suffix: str) -> None:
    path = _table(tmp_path, suffix)
    with pytest.raises(RunError, match=r"has 100 rows, the run asks for row 120: choose a smaller --global-batch"):
        UserTable(TableOptions(path=str(path))).fetch(90, 120)
    with pytest.raises(RunError, match=r"has no column 'c': "):
        UserTable(TableOptions(path=str(path), label="c")).fetch(0, 2)


def test_a_libsvm_file_has_as_many_features_for_every_rank_and_what_is_not_there_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.libsvm"
    path.write_text("1 0:0.5 2:-1 # the first\n\n0 1:3\n# a comment\n1 5:2e-1\n0\n")
    features, labels = UserTable(TableOptions(path=str(path))).fetch(0, 2)
    assert labels.tolist() == [1, 0]
    missing = float("nan")
    assert np.array_equal(features, [[0.5, missing, -1, *[missing] * 3], [missing, 3, *[missing] * 4]], equal_nan=True)
    features, labels = UserTable(TableOptions(path=str(path))).fetch(2, 4)
    assert (labels.tolist(), features.shape) == ([1, 0], (2, 6))
    assert features[0, 5] == np.float32(0.2)
    assert np.isnan(features[1]).all()
    with pytest.raises(RunError, match=r"has 4 rows, the run asks for row 5"):
        UserTable(TableOptions(path=str(path))).fetch(3, 5)


def test_what_a_name_tells_is_refused_before_anything_is_submitted(tmp_path: Path) -> None:
    for path, what in [
        ("x.txt", "is none of .parquet, .csv, .libsvm, .svm"),
        (str(tmp_path / "no.csv"), "is not a file"),
    ]:
        (problem,) = check(TableOptions(path=path), "workload xgboost")
        assert what in problem.what
    (problem,) = check(TableOptions(path="x.libsvm", label="y"), "workload xgboost")
    assert "a libsvm file has no names of columns" in problem.what
    (problem,) = check(TableOptions(label="y"), "workload xgboost")
    assert "needs data.path" in problem.what
