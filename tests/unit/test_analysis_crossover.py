"""Where strategies cross, and what more work on one machine costs."""

from dataclasses import replace

import pytest
from records_oracle import Oracle, Truth

from hpcpar.analysis.collect import collect

# serial + sample x 64 / ranks, one rank a node: equal where 0.02 = 0.064 / n, at n = 3.2.
CROSSING = Oracle(
    truths={"ddp": Truth(0.030, 0.0010), "pp": Truth(0.010, 0.0020)},
    nodes=(1, 2, 4, 8),
    repeats=5,
    noise=0.01,
    ranks_per_node=1,
)


def test_two_strategies_cross_where_their_times_are_equal(tmp_path):
    CROSSING.write(tmp_path)

    results = collect([tmp_path])
    (one,) = results.crossovers

    assert (one.faster_below, one.faster_above, one.below, one.above) == ("ddp", "pp", 2, 4)
    assert one.shown
    assert one.nodes.low <= 3.2 <= one.nodes.high
    assert 2 <= one.nodes.low < one.nodes.high <= 4
    assert f"- ddp and pp cross between 2 and 4 nodes, at {one.sentence.split(' at ')[1]}" in results.to_markdown()


def test_a_crossing_that_the_scatter_could_have_made_is_not_shown(tmp_path):
    # Far apart on one node, nearly equal on many: what changes sign there is noise.
    near = {"ddp": Truth(0.010, 0.0010), "pp": Truth(0.010, 0.0030)}
    oracle = replace(CROSSING, truths=near, nodes=(1, 256, 384, 512, 768), noise=0.1)
    flips = []
    for seed in range(4):
        replace(oracle, seed=seed).write(tmp_path / str(seed))
        flips += collect([tmp_path / str(seed)]).crossovers

    assert flips
    assert not any(one.shown for one in flips)
    assert all("runs scatter by more" in one.sentence for one in flips)
    assert all(one.nodes is None for one in flips)


def test_where_nothing_is_settled_no_order_is_spoken_of(tmp_path):
    replace(CROSSING, noise=0.3, repeats=3, seed=3).write(tmp_path)

    assert collect([tmp_path]).crossovers == ()


def test_sizes_at_which_nothing_is_settled_lie_inside_the_bracket(tmp_path):
    equal_at_4 = {"ddp": Truth(0.026, 0.0010), "pp": Truth(0.010, 0.0020)}
    replace(CROSSING, truths=equal_at_4).write(tmp_path)

    (one,) = collect([tmp_path]).crossovers

    assert (one.below, one.above, one.shown) == (2, 8, True)


def test_parallel_strategies_do_not_cross(tmp_path):
    replace(CROSSING, truths={"ddp": Truth(0.01, 0.001), "pp": Truth(0.02, 0.002)}).write(tmp_path)

    assert collect([tmp_path]).crossovers == ()


def test_spoiled_runs_cross_nothing(tmp_path):
    replace(CROSSING, oversubscribed_from=4).write(tmp_path)

    assert collect([tmp_path]).crossovers == ()


def test_size_up_is_the_time_of_more_work_on_the_same_machine(tmp_path):
    for place, batch in enumerate((64, 128, 256)):
        oracle = replace(CROSSING, truths={"ddp": Truth(0.030, 0.0010)}, nodes=(2,), global_batch=batch)
        replace(oracle, study=f"b{batch}", begun_s=1e9 + 1e6 * place).write(tmp_path)

    rows = collect([tmp_path]).sized_up

    assert [(row.global_batch, row.factor, row.runs) for row in rows] == [(64, 1, 5), (128, 2, 5), (256, 4, 5)]
    assert (rows[0].sizeup.value, rows[0].sizeup.low) == (1.0, None)
    for row in rows[1:]:
        truth = (0.030 + 0.0010 * row.global_batch / 2) / (0.030 + 0.0010 * 64 / 2)
        assert row.sizeup.low <= truth <= row.sizeup.high
        assert row.time_per_work.value == pytest.approx(row.sizeup.value / row.factor)
    table = collect([tmp_path]).sizeup
    assert list(table["sizeup_low"].isna()) == [True, False, False]


def test_the_scale_up_of_a_weak_ladder_is_its_efficiency(tmp_path):
    replace(CROSSING, scaling="weak").write(tmp_path)

    for cell in collect([tmp_path]).tables[0].cells:
        assert cell.karp_flatt is None
        assert cell.scaleup.value == pytest.approx(cell.efficiency.value, rel=1e-9)
        if not cell.is_baseline:
            assert (cell.scaleup.low, cell.scaleup.high) == pytest.approx(
                (cell.efficiency.low, cell.efficiency.high), rel=1e-9
            )
