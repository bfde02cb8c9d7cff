"""Which samples a step sees, where stages are cut, and what the data sets hold."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.errors import RunError
from hpcpar.worker.data import digits, pairs, text, words
from hpcpar.worker.data.arrays import split
from hpcpar.worker.data.text import DataOptions
from hpcpar.worker.mesh_engine.stages import partition
from hpcpar.worker.sampling import Sampler


@given(num_samples=st.integers(1, 50), parts=st.sampled_from([1, 2, 3, 4, 6]), step=st.integers(1, 40))
def test_parts_of_a_batch_are_the_batch_whatever_their_number(num_samples: int, parts: int, step: int) -> None:
    sampler = Sampler(num_samples, 12, seed=1)
    whole = sampler.ids(step)
    split = np.concatenate([Sampler(num_samples, 12, seed=1).ids(step, part, parts) for part in range(parts)])
    assert whole.tolist() == split.tolist()


def test_an_epoch_sees_every_sample_once_and_the_next_in_another_order() -> None:
    sampler = Sampler(30, 12, seed=5)
    seen = np.concatenate([sampler.ids(step) for step in range(1, 6)])
    assert sorted(seen[:30]) == sorted(seen[30:]) == list(range(30))
    assert seen[:30].tolist() != seen[30:].tolist()
    assert Sampler(30, 12, seed=6).ids(1).tolist() != seen[:12].tolist()


@given(weights=st.lists(st.integers(0, 20), min_size=1, max_size=8), data=st.data())
def test_stages_are_as_even_as_can_be(weights: list[int], data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, len(weights)))
    bounds = partition(weights, parts)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, len(weights), parts + 1)
    assert all(low < high for low, high in itertools.pairwise(bounds)), "no stage is empty"

    def heaviest(cuts: tuple[int, ...]) -> int:
        return max(sum(weights[low:high]) for low, high in itertools.pairwise((0, *cuts, len(weights))))

    best = min(heaviest(cuts) for cuts in itertools.combinations(range(1, len(weights)), parts - 1))
    assert heaviest(bounds[1:-1]) == best


def test_digits_are_real_and_split() -> None:
    training, evaluation = digits.read()
    assert len(training) + len(evaluation) == 1797, "scikit-learn's documentation of load_digits"
    assert training.facts()["synthetic"] is False
    assert training.facts()["num_samples"] == 1438
    pixels, labels = evaluation.inputs_N, evaluation.targets_N
    assert pixels.shape == (359, 64)
    assert (pixels.min(), pixels.max()) == (0.0, 1.0)
    assert set(labels) == set(range(10))


def test_digits_that_cannot_be_read_are_a_cause_data(tmp_path: Path) -> None:
    (tmp_path / "digits.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(RunError, match="cannot read the digits") as caught:
        digits.read(tmp_path / "digits.csv.gz")
    assert caught.value.cause == "data"


@given(count=st.integers(1, 40))
def test_every_fifth_row_is_never_trained_on(count: int) -> None:
    training, evaluation = split(np.arange(count), np.arange(count), {})
    assert evaluation.targets_N.tolist() == list(range(4, count, 5))
    assert sorted([*training.targets_N, *evaluation.targets_N]) == list(range(count))


def test_every_fifth_window_of_a_text_is_never_trained_on(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(bytes(range(100)))
    training, evaluation = text.read(text.DataOptions(path=str(tmp_path / "text")), 4, 256)
    assert (len(training), len(evaluation)) == (20, 4)
    inputs, targets = evaluation.fetch(np.array([0, 3]))
    assert inputs.tolist() == [[16, 17, 18, 19], [76, 77, 78, 79]]
    assert targets.tolist() == [[17, 18, 19, 20], [77, 78, 79, 80]]
    trained = {int(i) // 4 for i in training.fetch(np.arange(20))[0].flatten()}
    assert trained == set(range(24)) - {4, 9, 14, 19}


def test_the_evaluation_is_spread_over_what_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(bytes(range(100)))
    options = text.DataOptions(path=str(tmp_path / "text"), evaluation=2)
    assert text.read(options, 4, 256).evaluation.fetch(np.arange(2))[0][:, 0].tolist() == [16, 56]
    none = text.DataOptions(path=str(tmp_path / "text"), evaluation=0)
    assert len(text.read(none, 4, 256).evaluation) == 0


def test_tokens_of_ones_own_are_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(1000, 1100, dtype=np.uint16))
    training, _ = text.read(text.DataOptions(path=str(tmp_path / "tokens.npy")), 4, 2000)
    assert training.fetch(np.array([0]))[1].tolist() == [[1001, 1002, 1003, 1004]]
    assert training.facts()["num_tokens"] == 100


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.arange(1000, 1100), "tokens from 1000 to 1099, the vocabulary has 0 to 255"),
        (np.arange(-3, 100), "tokens from -3 to 99, the vocabulary has 0 to 255"),
        (np.ones(9), r"tokens are one axis of whole numbers, this is float64 \[9\]"),
        (np.ones((3, 3), int), r"tokens are one axis of whole numbers, this is int64 \[3, 3\]"),
        (np.arange(3), "3 tokens are less than one sample of 4 \\+ 1"),
        (b"no array", "cannot read"),
    ],
)
def test_tokens_that_cannot_be_used_are_a_cause_data(tmp_path: Path, array: Any, words: str) -> None:
    path = tmp_path / "tokens.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        np.save(path, array)
    with pytest.raises(RunError, match=words) as caught:
        text.read(text.DataOptions(path=str(path)), 4, 256)
    assert caught.value.cause == "data"


@pytest.fixture
def words_only(tmp_path: Path) -> Path:
    """A tokenizer of three words and of what is none of them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[UNK]": 0, "to": 1, "be": 2, "or": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_text_is_read_by_the_tokenizer_that_is_named(tmp_path: Path, words_only: Path) -> None:
    (tmp_path / "play.txt").write_text("to be or not to be " * 20)
    options = DataOptions(path=str(tmp_path / "play.txt"), tokenizer=str(words_only), evaluation=0)
    assert text.check(options, "here", 4) == []
    training, _ = text.read(options, 6, 4, text.Tokens(facts={"model": "of a folder"}))
    assert training.facts()["model"] == "of a folder"
    tokens, targets = training.fetch(np.array([0]))
    assert tokens.tolist() == [[1, 2, 3, 0, 1, 2]]
    assert targets.tolist() == [[2, 3, 0, 1, 2, 1]]
    facts = training.facts()
    assert (facts["num_tokens"], facts["tokenizer"]) == (120, str(words_only))
    assert facts["tokenizer_sha256"] == hashlib.sha256(words_only.read_bytes()).hexdigest()[:16]


def test_a_tokenizer_reads_the_text_of_a_table_and_not_the_tokens_of_another(tmp_path: Path, words_only: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "both.parquet"
    rows = {"text": ["to be", "or not"], "input_ids": [[7, 7, 7], [7, 7]]}
    parquet.write_table(pyarrow.table(rows), path)
    options = DataOptions(path=str(path), tokenizer=str(words_only), evaluation=0)
    assert text.check(options, "here", 4) == []
    training, _ = text.read(options, 3, 4)
    assert training.fetch(np.array([0]))[0].tolist() == [[1, 2, 3]]
    parquet.write_table(pyarrow.table({"input_ids": rows["input_ids"]}), path)
    (problem,) = text.check(options, "here", 4)
    assert "it needs 'text'" in f"{problem.what} {problem.fix}"


def test_a_tokenizer_that_cannot_be_is_named_on_the_login_node(tmp_path: Path, words_only: Path) -> None:
    def said(path: str = "", **options: Any) -> str:
        (problem,) = text.check(DataOptions(path=path, **options), "workload llama-tiny", 3)
        assert problem.where == "workload llama-tiny: data.tokenizer"
        return f"{problem.what} / {problem.fix}"

    assert said(tokenizer=str(words_only)) == "has 4 tokens, the model knows 3 / --set vocabulary=4 or more"
    assert "nowhere.json: No such file or directory" in said(tokenizer=str(tmp_path / "nowhere.json"))
    (tmp_path / "half.json").write_bytes(words_only.read_bytes()[:-20])
    assert "hpcpar data fetch cl100k" in said(tokenizer=str(tmp_path / "half.json"))
    (tmp_path / "odd.json").write_text('{"model": {"vocab": {}}, "added_tokens": [{"id": "x"}]}')
    assert "hpcpar data fetch cl100k" in said(tokenizer=str(tmp_path / "odd.json"))
    assert "has tokens, and no text" in said("synthetic:", tokenizer=str(words_only))
    assert "has tokens, and no text" in said("tokens.npy", tokenizer=str(words_only))


def test_a_tokenizer_that_breaks_on_the_node_is_a_cause_data(tmp_path: Path, words_only: Path) -> None:
    words_only.write_text("{}")
    with pytest.raises(RunError, match=r"cannot read .*tokenizer\.json") as caught:
        text.read(DataOptions(tokenizer=str(words_only)), 6, 256)
    assert caught.value.cause == "data"
    words_only.unlink()
    with pytest.raises(RunError, match=r"cannot read .*tokenizer\.json: No such file") as caught:
        text.read(DataOptions(tokenizer=str(words_only)), 6, 256)
    assert caught.value.cause == "data"


def test_tokens_that_fit_in_a_byte_are_not_taken_for_text(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(200, dtype=np.uint8))
    options = DataOptions(path=str(tmp_path / "tokens.npy"), evaluation=0)
    training, _ = text.read(options, 6, 256, text.Tokens(lambda text: pytest.fail("it was read as text")))
    assert training.fetch(np.array([0]))[0].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_words_know_their_packages_and_rare_ones_are_one_word() -> None:
    training, evaluation = words.read(words.WordOptions(vocabulary=50))
    assert training.facts()["classes"] == list(words.PACKAGES)
    assert training.facts()["synthetic"] is False
    assert set(training.targets_N) == set(evaluation.targets_N) == set(range(8))
    assert training.inputs_N.shape[1] == 32
    assert (training.inputs_N.min(), training.inputs_N.max()) == (0, 49)


def test_a_folder_a_class_is_text_of_ones_own(tmp_path: Path) -> None:
    for name, content in (("a", "x y z " * 8), ("b", "p q " * 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(content)
    training, evaluation = words.read(words.WordOptions(path=str(tmp_path), words=3, classes=2))
    assert (len(training), len(evaluation)) == (10, 2)
    with pytest.raises(RunError, match="class 'b' has fewer than 20 words"):
        words.read(words.WordOptions(path=str(tmp_path), words=20, classes=2))


def test_pairs_are_a_source_the_target_moved_by_one_and_the_target(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("ab\tAB\n" * 5 + "much too long for this\tx\nno tab\n")
    training, evaluation = pairs.read(pairs.PairOptions(path=str(tmp_path / "pairs"), length=4))
    assert (len(training), len(evaluation)) == (4, 1)
    assert training.inputs_N[0].tolist() == [97, 98, pairs.END, 0, pairs.BEGIN, 65, 66, 0]
    assert training.targets_N[0].tolist() == [65, 66, pairs.END, 0]


def test_the_default_pairs_are_names_of_two_styles() -> None:
    training, _ = pairs.read(pairs.PairOptions())
    row, target = training.inputs_N[7], training.targets_N[7]
    source = bytes(row[:20][row[:20] > pairs.END].tolist()).decode()
    assert bytes(target[target > pairs.END].tolist()).decode() == source.title().replace("_", "")
    assert "_" in source


def test_a_folder_of_text_is_read_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"defg")
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / ".hidden").write_bytes(b"zzz")
    windows, _ = text.read(DataOptions(path=str(tmp_path)), 3, 256)
    assert len(windows) == 2
    assert windows.facts()["num_bytes"] == 7


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_too_little_text_is_a_cause_data(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(RunError, match="less than one sample"):
        text.read(DataOptions(path=str(tmp_path / "text")), 3, 256)


def test_the_standard_library_is_the_default_text() -> None:
    windows, held = text.read(DataOptions(), 32, 256)
    assert (len(windows), len(held)) == (62499 - 12499, 256)
    assert windows.facts()["num_bytes"] == 2_000_000
    assert windows.facts()["synthetic"] is False
