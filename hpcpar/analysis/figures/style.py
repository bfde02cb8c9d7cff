"""How all figures look: colours, markers and dashes that each tell series apart, sizes for a printed page.

Colour, marker and dashes all tell the series, so that it can be read in grey and by everybody. Palette: M. Okabe and
K. Ito, Color Universal Design, 2008, without its yellow, which thin lines lose on white.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hpcpar.analysis.text.sheet import one_line
from hpcpar.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)), (0, (3, 1)))
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "++++", "----", "oooo")
INK, QUIET, FAINT = "#222222", "#666666", "#D9D9D9"
SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "hpcpar",
    "pdf.fonttype": 42,
    "text.parse_math": False,
}
WIDTH_IN = 7.09
"""180 mm: the width of a printed page's text."""
MARGIN_IN = 0.14
DPI = 200
KINDS = ("png", "svg", "pdf")
# Neither date nor version goes into a file: equal input must give equal bytes.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def render(compose: Callable[[Figure], None], kinds: Sequence[str] = KINDS) -> dict[str, bytes]:
    """Draw a figure once and print it as each of `kinds`; the same input gives the same bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "report", "figures") from error

    printed = {}
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # a name in a script we have no font for
        figure = Figure(facecolor="white")
        compose(figure)
        for kind in kinds:
            out = io.BytesIO()
            figure.savefig(out, format=kind, dpi=DPI, metadata=_METADATA[kind])
            printed[kind] = out.getvalue()
    return printed


def text_line(figure: Figure, y: float, words: str, size: float, **style: Any) -> None:
    """Write a line at the left edge; one that is too long for the page shrinks instead of leaving it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    words = one_line(words)
    font = FontProperties(family="DejaVu Sans", weight=style.get("weight", "normal"))
    # Rasterised letters are up to some per cent wider than their outlines: hinting rounds each to whole pixels.
    width_in = 1.06 * TextPath((0, 0), words, size=size, prop=font).get_extents().width / 72
    fitted = size * min(1.0, (WIDTH_IN - 2 * MARGIN_IN) / width_in) if width_in else size
    figure.text(MARGIN_IN / WIDTH_IN, y, words, fontsize=fitted, **style)


def within(label: str, most: int) -> str:
    """Cut the middle out of a label that is too long: both of its ends tell rows apart."""
    label = one_line(label)
    half = (most - 5) // 2
    return label if len(label) <= most else f"{label[: most - 5 - half]} ... {label[-half:]}"


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """Write the two lines at the top of every figure."""
    height = figure.get_figheight()
    text_line(figure, 1 - 0.24 / height, title, 9.5, color=INK, weight="bold")
    text_line(figure, 1 - 0.42 / height, subtitle, 8.0, color=QUIET)


def legend(figure: Figure, signs: Sequence[Any], labels: Sequence[str], y: float) -> None:
    """Write what the signs mean below the panels; `y` is the top of it, as a share of the height."""
    short = [textwrap.shorten(one_line(label), 60, placeholder=" ...") for label in labels]
    columns = max(1, min(5, 130 // (max(map(len, short), default=1) + 12)))
    figure.legend(
        signs, short, loc="upper left", bbox_to_anchor=(0.07 / WIDTH_IN, y), ncols=columns, frameon=False,
        fontsize=7.5, handlelength=3.2, columnspacing=1.6, borderaxespad=0,
    )  # fmt: skip


def bare(axes: Any) -> None:
    """Take away of a panel what says nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5, width=0.6)


def nodes_axis(axes: Any, sizes: Sequence[int], most: int = 10) -> None:
    """Make the axis of node counts: logarithmic, labelled at the measured sizes."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    shown = sorted(set(sizes))
    if len(shown) > most:
        shown = [2**power for power in range(shown[-1].bit_length()) if 2**power >= shown[0]]
    axes.set_xlim(min(sizes) / 2**0.25, max(sizes) * 2**0.25)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Nodes")
    bare(axes)


def plain_decades(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}".replace(",", " ")))
    axis.set_minor_locator(NullLocator())
    axis.axes.grid(axis="y", color=FAINT, linewidth=0.4)


def powers_of_two(axis: Any) -> None:
    """Label a logarithmic axis at powers of two, below one as fractions."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=2))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.axes.grid(axis="y", color=FAINT, linewidth=0.4)
