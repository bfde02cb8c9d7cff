"""Parquet for every neural workload: what is read, and what is said of a file that is none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hpcpar import registry
from hpcpar.errors import RunError
from hpcpar.worker.data import class_table, images, pairs, parquet, places, text, words

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path: Path, **columns: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return str(path)


def picture(shade: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def test_texts_are_bytes_one_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=["to be", "or not", "to be"], other=[1, 2, 3])
    name, tokens = text._tokens(text.DataOptions(path=path))
    assert (name, tokens.tobytes()) == (path, b"to be\nor not\nto be")


@pytest.mark.parametrize("rows", [[[1, 2], [3], [4, 5, 6]], [1, 2, 3, 4, 5, 6]], ids=["lists", "numbers"])
def test_tokens_of_all_rows_and_files_are_one_text(tmp_path: Path, rows: list[Any]) -> None:
    write(tmp_path / "b" / "2.parquet", input_ids=rows[3:] or rows)
    write(tmp_path / "b" / "1.parquet", input_ids=rows[:3], text=["x"] * 3)
    _, tokens = text._tokens(text.DataOptions(path=str(tmp_path / "b")))
    assert tokens.tolist()[:3] == [1, 2, 3]
    assert tokens.tolist()[-3:] == [4, 5, 6]
    assert tokens.dtype == np.int64


@pytest.mark.parametrize("nested", [True, False], ids=["as Hugging Face keeps them", "bytes"])
def test_pictures_and_their_labels(tmp_path: Path, nested: bool) -> None:
    files = [picture(40 * i) for i in range(5)]
    stored = [{"bytes": file, "path": None} for file in files] if nested else files
    path = write(tmp_path / "a.parquet", image=stored, label=[0, 1, 0, 1, 1])
    training, held = images.read(images.ImageOptions(path=path, size=8, classes=2))
    inputs, labels = training.fetch(np.arange(4))
    assert labels.tolist() == [0, 1, 0, 1]
    assert inputs[:, 0, 0, 0].mul(255).round().tolist() == [0, 40, 80, 120]
    assert len(held) == 1


def test_a_picture_that_is_none_is_named_by_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", image=[picture(1), b"no picture"], label=[0, 1])
    with pytest.raises(RunError, match=r"cannot read .*a\.parquet, row 1"):
        images.read(images.ImageOptions(path=path, classes=2))


def test_words_by_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=["a b c d", "x y", "e f", "z x y x"], label=["two", "one", "two", "one"])
    training, _ = words.read(words.WordOptions(path=path, words=2, classes=2))
    assert training.facts()["classes"] == ["one", "two"]
    with pytest.raises(RunError, match=r"has 2 labels, data\.classes is 3"):
        words.read(words.WordOptions(path=path, words=2, classes=3))


def test_pairs_are_two_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet", source=["ab", "c", "x" * 99, "d", "e", "f"], target=["AB", "C", "X", "D", "E", "F"]
    )
    training, held = pairs.read(pairs.PairOptions(path=path, length=4))
    assert training.inputs_N[0].tolist() == [97, 98, 2, 0, 1, 65, 66, 0]
    assert len(training) + len(held) == 5


def test_features_are_scaled_by_what_training_sees(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=[0, 2, 0, 2, 1000], label=[0, 1, 1, 0, 2], same=[7.0] * 5)
    training, held = class_table.read(class_table.RowOptions(path=path, classes=3))
    assert training.inputs_N.tolist() == [[-1, 0], [1, 0], [-1, 0], [1, 0]]
    assert (training.targets_N.tolist(), held.targets_N.tolist()) == ([0, 1, 1, 0], [2])
    assert held.inputs_N.tolist() == [[999, 0]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": ["a", "b"], "label": [0, 1]}, "features are numbers"),
        ({"x": [1.0, float("nan")], "label": [0, 1]}, "a feature is not finite"),
        ({"x": [1.0, None], "label": [0, 1]}, "1 rows have no 'x'"),
        ({"x": [1.0, 2.0], "label": [0, 10]}, "labels must be whole numbers from 0 to 9"),
        ({"x": [1.0, 2.0], "label": [0.5, 1]}, "labels must be whole numbers from 0 to 9"),
    ],
)
def test_a_table_that_cannot_be_learnt_is_a_cause_data(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "a.parquet", **columns)
    with pytest.raises(RunError, match=words) as error:
        class_table.read(class_table.RowOptions(path=path))
    assert error.value.cause == "data"


@pytest.mark.parametrize(
    ("workload", "wanted"),
    [
        ("mlp", "it needs 'label'"),
        ("cnn", "it needs 'image' and 'label'"),
        ("nbow", "it needs 'text' and 'label'"),
        ("seq2seq", "it needs 'source' and 'target'"),
        ("llama-tiny", "it needs 'input_ids', or 'text'"),
    ],
)
def test_columns_that_are_missing_are_named_before_anything_is_queued(
    tmp_path: Path, workload: str, wanted: str
) -> None:
    path = write(tmp_path / "a.parquet", a=[1], b=[2])
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1")
    work = registry.get_workload(workload)

    def said(path: str) -> str:
        [problem] = work.check(msgspec.convert({"data": {"path": path}}, work.Options))
        return str(problem)

    assert said(path) == f"workload {workload}: data.path: {path} has the columns a, b\n    {wanted}"
    assert said(str(damaged)).startswith(f"workload {workload}: data.path: cannot read {damaged}: ")
    assert "no" in said(str(tmp_path / "nothing.parquet"))


def test_a_missing_column_in_the_job_is_a_cause_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", a=[1])
    with pytest.raises(RunError, match=r"a are not the columns that are needed"):
        text._tokens(text.DataOptions(path=path))
    with pytest.raises(RunError, match="cannot read"):
        parquet.read([Path(path)], ["text"])


@pytest.mark.parametrize("workload", ["mlp", "cnn", "nbow", "seq2seq", "llama-tiny", "llama-lora", "xgboost"])
@pytest.mark.parametrize(
    ("path", "words"), [("x" * 300, "cannot be read: File name too long"), ("~nobody-of-that-name/x", "")]
)
def test_a_path_that_no_file_system_takes_is_said_like_any_other(workload: str, path: str, words: str) -> None:
    work = registry.get_workload(workload)
    [problem] = work.check(msgspec.convert({"data": {"path": path}}, work.Options))
    assert problem.where == f"workload {workload}: data.path"
    assert words in problem.what


def test_what_may_not_be_read_is_said_before_anything_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("text " * 100)
    monkeypatch.setattr(places.os, "access", lambda *_: False)  # the tests may run as root, who may read everything
    [problem] = text.check(text.DataOptions(path=str(secret)), "workload llama-tiny", 256)
    assert str(problem).startswith(f"workload llama-tiny: data.path: '{secret}' cannot be read: Permission denied")


@pytest.mark.parametrize(
    ("workload", "shape"), [("mlp", [2, 64]), ("cnn", [2, 1, 32, 32]), ("nbow", [2, 32]), ("llama-tiny", [2, 32])]
)
def test_synthetic_data_needs_no_file_and_says_what_it_is(workload: str, shape: list[int]) -> None:
    work = registry.get_workload(workload)
    options = msgspec.convert({"data": {"path": "synthetic:"}}, work.Options)
    assert work.check(options) == []
    once, again = (work.load(options, 0) for _ in range(2))
    inputs, _ = once.samples.fetch(np.arange(2))
    assert list(inputs.shape) == shape
    assert inputs.equal(again.samples.fetch(np.arange(2))[0])
    facts = once.samples.facts()
    assert (facts["synthetic"], facts["name"]) == (True, "random numbers")


def test_synthetic_pairs_and_pictures_learn_nothing_but_run() -> None:
    training, held = pairs.read(pairs.PairOptions(path="synthetic:"))
    assert training.inputs_N.shape[1] == 2 * training.targets_N.shape[1]
    assert len(held) > 0
    assert len(images.read(images.ImageOptions(path="synthetic:", size=512, channels=3)).training) < 2048
