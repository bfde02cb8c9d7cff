"""Tables in LaTeX, with rules of the package booktabs; captions are made of what stands beside the tables elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcpar.analysis.text.captions import brief_facts, title
from hpcpar.analysis.text.sheet import Sheet, one_line
from hpcpar.analysis.text.tables import sheet
from hpcpar.analysis.text.verdict_tables import facts as verdict_facts
from hpcpar.analysis.text.verdict_tables import verdict_sheet

if TYPE_CHECKING:
    from hpcpar.analysis.results import Results

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after \\ a bracket would be an argument
    "]": "{]}",
}
_HEAD = r"""% Tables of hpcpar. In the preamble: \usepackage{booktabs,graphicx} and \usepackage[T1]{fontenc}
"""


def latex(results: Results) -> str:
    """Print scaling tables and verdicts as LaTeX; every value is escaped, characters beyond ASCII stay."""
    parts = [
        _table(sheet(table, narrow=True), [title(table), *brief_facts(table)], f"tab:scaling-{place}")
        for place, table in enumerate(results.tables, start=1)
    ]
    judged = [one for one in (*results.against, *results.comparisons) if one.comparisons]
    parts += [
        _table(verdict_sheet([one]), [one.title, *verdict_facts(one)], f"tab:verdicts-{place}")
        for place, one in enumerate(judged, start=1)
    ]
    return "\n".join([_HEAD, *parts])


def escape(text: str) -> str:
    """Return text that LaTeX prints as it stands: nothing in it is a command."""
    return "".join(_SPECIAL.get(char, char) for char in one_line(text)).replace("--", "-{}-")  # two make a dash


def _table(page: Sheet, said: list[str], label: str) -> str:
    columns = "".join("l" if place in page.left else "r" for place in range(len(page.heads)))
    rows = [" & ".join(map(escape, texts)) + r" \\" for texts in (page.heads, *page.rows)]
    caption = " ".join(line if line.endswith(".") else f"{line}." for line in map(escape, said))
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )
