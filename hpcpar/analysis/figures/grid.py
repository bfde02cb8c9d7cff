"""The verdicts at a glance: a cell a comparison, told by sign, word and colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpcpar.analysis.figures.style import INK, QUIET, WIDTH_IN, heading, within
from hpcpar.analysis.judging.comparisons import Comparison, ComparisonSet
from hpcpar.analysis.judging.metrics import METRICS
from hpcpar.analysis.judging.verdicts import Word
from hpcpar.analysis.text.numbers import estimate
from hpcpar.analysis.text.verdict_tables import verdict_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 40
SIGNS = {
    Word.IMPROVES: "\u25b2",
    Word.DETERIORATES: "\u25bc",
    Word.NO_CHANGE: "\u25cf",
    Word.INCONCLUSIVE: "?",
    Word.NOT_ENOUGH_RUNS: "-",
    Word.NOT_COMPARABLE: "-",
}
# Blue and orange: the pair that red-green blindness leaves apart, and that differs in grey.
_FACES = {Word.IMPROVES: "#9ecae1", Word.DETERIORATES: "#fdae6b", Word.NO_CHANGE: "#e6e6e6"}
_HEAD_IN, _ROW_IN, _FOOT_IN = 1.05, 0.34, 0.35
_LONGEST = 32
"""Letters of a label."""
_METRICS = {metric.name: metric for metric in METRICS}


def why_not(one: ComparisonSet) -> str:
    """Say why there is nothing to draw; "" where there is."""
    rows = len({(cell.strategy, cell.nodes) for cell in one.comparisons})
    if not rows:
        return "nothing was compared"
    return f"{rows} rows are too many for a page" if rows > MOST_ROWS else ""


def compose(figure: Figure, one: ComparisonSet) -> None:
    """Draw the grid: a row an arm, a column a metric."""
    arms = list(dict.fromkeys((cell.strategy, cell.nodes) for cell in one.comparisons))
    metrics = [metric for metric in METRICS if any(cell.metric == metric.name for cell in one.comparisons)]
    height = _HEAD_IN + _ROW_IN * len(arms) + _FOOT_IN
    figure.set_size_inches(WIDTH_IN, height)
    heading(figure, one.title, f"Against {one.baseline} on the same nodes; ratio with its 95 % interval over runs")
    labels = [within(f"{strategy}, {nodes}", _LONGEST) for strategy, nodes in arms]
    widest = min(0.34, 0.03 + 0.0095 * max(map(len, labels)))
    axes = figure.add_axes((widest, _FOOT_IN / height, 0.98 - widest, _ROW_IN * len(arms) / height))
    for cell in one.comparisons:
        place = [metric.name for metric in metrics].index(cell.metric), arms.index((cell.strategy, cell.nodes))
        _cell(axes, cell, *place)
    axes.set_xlim(0, len(metrics))
    axes.set_ylim(len(arms), 0)
    axes.set_xticks([i + 0.5 for i in range(len(metrics))], [_wrapped(metric.words) for metric in metrics], fontsize=7)
    axes.set_yticks([i + 0.5 for i in range(len(arms))], labels)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    legend = "   ".join(f"{SIGNS[word]} {word}" for word in (Word.IMPROVES, Word.NO_CHANGE, Word.DETERIORATES))
    figure.text(widest, 0.12 / height, f"{legend}   ? inconclusive   - no verdict; rows: strategy, nodes", color=QUIET,
                fontsize=6.8)  # fmt: skip


def _cell(axes: object, cell: Comparison, x: int, y: int) -> None:
    from matplotlib.patches import Rectangle

    face = _FACES.get(cell.verdict, "white")
    hatch = "////" if cell.verdict == Word.INCONCLUSIVE else None
    patch = Rectangle((x + 0.02, y + 0.06), 0.96, 0.88, facecolor=face, edgecolor="#bbbbbb", hatch=hatch, linewidth=0.5)
    axes.add_patch(patch)  # type: ignore[attr-defined]
    settled = cell.ratio is not None and cell.verdict not in (Word.NOT_COMPARABLE, Word.NOT_ENOUGH_RUNS)
    words = f"{SIGNS[cell.verdict]} x{estimate(cell.ratio)}" if settled else f"- {_brief(cell)}"
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8} if hatch else None
    axes.text(x + 0.5, y + 0.5, words, ha="center", va="center", fontsize=6.2, color=INK, bbox=box)  # type: ignore[attr-defined]


def _brief(cell: Comparison) -> str:
    return verdict_words(cell) if cell.verdict in (Word.NOT_COMPARABLE, Word.NOT_ENOUGH_RUNS) else ""


def _wrapped(words: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(words, 16))


def drawable(sets: Sequence[ComparisonSet]) -> list[ComparisonSet]:
    """Return the sets of which there is something to draw."""
    return [one for one in sets if not why_not(one)]
