"""The figure: deterministic, readable without colour, honest about what is no evidence, a reason where it is none."""

import itertools
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from records_oracle import Oracle, Truth, ideal

from hpcpar.analysis.collect import collect
from hpcpar.analysis.figures import scaling as figure
from hpcpar.analysis.figures import style
from hpcpar.analysis.figures.gallery import draw_all
from hpcpar.errors import MissingExtraError
from hpcpar.records import Cause

ORACLE = Oracle(truths={"ddp": Truth(0.010, 0.0020), "pp": Truth(0.030, 0.0019)}, nodes=(1, 2, 4, 8), noise=0.02)


def table_of(tmp_path, oracle):
    oracle.write(tmp_path)
    return collect([tmp_path]).tables[0]


def words(svg):
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if node.tag.endswith("}text")]


def axes_of(table, target=0.75):
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(style.SETTINGS):
        drawn = Figure(dpi=style.DPI)
        FigureCanvasAgg(drawn)
        figure.compose(drawn, table, target)
        drawn.canvas.draw()
    return drawn, drawn.axes[0], drawn.axes[1]


def test_the_same_table_gives_the_same_bytes_without_date_or_version(tmp_path):
    table = table_of(tmp_path, ORACLE)

    for kind in ("png", "svg"):
        first, second = (figure.draw(table, 0.75, kind) for _ in range(2))
        assert first == second
        assert b"dc:date" not in first
        assert b"Matplotlib" not in first


def test_title_baselines_and_statistic_stand_in_the_figure(tmp_path):
    text = " ".join(words(figure.draw(table_of(tmp_path, ORACLE), 0.75, "svg")))

    for expected in (
        "Strong scaling of clockwork on testbed (cpu nodes), study oracle",
        "Fixed global batch of 64 samples",
        "Baseline: ddp on 1 node (2 ranks)",
        "Baseline: pp on 1 node (2 ranks)",
        "95 % t-intervals over runs",
        "efficiency target 75 %",
        "geometric means over 3 runs",
    ):
        assert expected in text


def test_ticks_are_the_measured_sizes_and_powers_of_two(tmp_path):
    _, speedup, efficiency = axes_of(table_of(tmp_path, ORACLE))
    for axes in (speedup, efficiency):
        assert axes.get_xscale() == "log"
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8"]
    assert speedup.get_yscale() == "log"
    assert {"1", "2", "4", "8"} <= {label.get_text() for label in speedup.get_yticklabels()}


def test_the_ideal_goes_through_the_baseline_with_slope_one(tmp_path):
    _, speedup, _ = axes_of(table_of(tmp_path, replace(ORACLE, nodes=(2, 4, 8))))

    ideal_line = speedup.lines[0]
    assert list(ideal_line.get_xdata()) == [2, 8]
    assert list(ideal_line.get_ydata()) == [1, 4]


def test_error_bars_are_the_intervals_and_the_baseline_has_none(tmp_path):
    table = table_of(tmp_path, ORACLE)
    _, speedup, _ = axes_of(table)

    bars = [
        tuple(line.get_ydata())
        for line in speedup.lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]
    ]
    expected = [(cell.speedup.low, cell.speedup.high) for cell in table.cells if not cell.is_baseline]
    assert sorted(bars) == sorted(expected)


def test_no_two_series_look_alike_without_colour():
    looks = [
        (figure.MARKERS[i % len(figure.MARKERS)], figure.DASHES[i % len(figure.DASHES)]) for i in range(24)
    ]  # lcm(8, 6)

    assert len(set(looks)) == len(looks)


def test_neighbouring_colours_differ_in_lightness_or_hue_for_everybody():
    # The palette is Okabe and Ito's; what is tested is that nobody slipped in a colour of another one, or yellow.
    okabe_ito = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"}

    assert set(figure.COLOURS) == okabe_ito


def test_points_that_are_no_evidence_are_hollow_and_the_legend_says_why(tmp_path):
    table = table_of(tmp_path, replace(ORACLE, oversubscribed_from=4))
    drawn, speedup, _ = axes_of(table)

    points = [line for line in speedup.lines if line.get_marker() in figure.MARKERS]
    hollow = [round(line.get_xdata()[0]) for line in points if line.get_markerfacecolor() == "white"]
    assert sorted(hollow) == [4, 4, 8, 8]
    assert "hollow: oversubscribed, no evidence" in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_a_size_without_a_result_is_a_cross(tmp_path):
    failed = {("pp", 8, repeat): Cause.OOM_DEVICE for repeat in (1, 2, 3)}
    drawn, _, efficiency = axes_of(table_of(tmp_path, replace(ORACLE, failures=failed)))

    crosses = [line for line in efficiency.lines if line.get_marker() == "x"]
    assert [round(x) for line in crosses for x in line.get_xdata()] == [8]
    assert "no result" in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_nothing_overlaps_and_nothing_leaves_the_page(tmp_path):
    long = {f"strategy-with-a-rather-long-name-{i}": Truth(0.01 * i, 0.002) for i in range(1, 9)}
    table = table_of(tmp_path, replace(ORACLE, truths=long, workload="w" * 60, study="s" * 60))
    drawn, *panels = axes_of(table)
    renderer, page = drawn.canvas.get_renderer(), drawn.bbox
    boxes = [text.get_window_extent(renderer) for text in drawn.texts]
    boxes += [panel.get_tightbbox(renderer) for panel in panels] + [drawn.legends[0].get_window_extent(renderer)]
    for box in boxes:
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize(
    ("oracle", "reason"),
    [
        (ideal(nodes=(1,)), "a second size"),
        (ideal(scaling="undeclared"), "no scaling was declared"),
        (ideal(failures={("ddp", n, r): Cause.DATA for n in (1, 2, 4) for r in (1, 2, 3)}), "no baseline has a time"),
    ],
)
def test_where_nothing_can_be_drawn_there_is_a_reason(tmp_path, oracle, reason):
    oracle.write(tmp_path)

    drawn, reasons = draw_all(collect([tmp_path]), ("svg",))

    assert "scaling" not in {one.plan.stem for one in drawn}
    assert re.search(rf"No figure scaling .*{reason}", reasons[0])


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    ORACLE.write(tmp_path)
    results = collect([tmp_path])
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingExtraError, match=r"hpcpar\[report\]"):
        figure.draw(results.tables[0], 0.75, "png")
    assert "hpcpar[report]" in draw_all(results)[1][0]
