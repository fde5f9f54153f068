"""The human table as Markdown, and as LaTeX that compiles without packages."""

from dgmbench.assemble.tables import KINDS, TableCell, View
from dgmbench.format import MISSING

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "’": "'",
    "“": "``",
    "”": "''",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def escape_tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    for character in "\\|*_`<[":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def markdown(view: View) -> str:
    """One pipe table for each section; the reasons are notes below."""
    lines = [f"# {escape_markdown(view.title)}", "", escape_markdown(view.caption), ""]
    lines += [escape_markdown(view.question), ""] if view.question else []
    for section in view.sections:
        lines += [f"**{section.kind}**: {KINDS[section.kind]}", ""]
        lines.append("| | " + " | ".join(map(escape_markdown, section.across)) + " |")
        lines.append("| --- |" + " ---: |" * len(section.across))
        for row in section.rows:
            label = escape_markdown(row.label) + (" *(control)*" if row.control else "")
            lines.append(f"| {label} | " + " | ".join(map(_markdown_cell, row.cells)) + " |")
        lines.append("")
    lines += [" ".join(map(escape_markdown, view.remarks)), ""]
    if view.notes:
        lines += [f"{n}. {escape_markdown(note)}" for n, note in enumerate(view.notes, 1)] + [""]
    return "\n".join(lines)


def _markdown_cell(cell: TableCell) -> str:
    if cell.record is None:
        return MISSING
    marks = "".join(f"<sup>{n}</sup>" for n in cell.notes)
    first = cell.state if cell.record["obtained"] is None else " ".join(p for p in (cell.value, cell.state) if p)
    parts = [first + marks, cell.further, ": ".join(p for p in (cell.published, cell.verdict) if p)]
    return "<br>".join(part for part in parts if part)


def latex(view: View) -> str:
    """A `table` with one `tabular` for each section: kernel LaTeX alone."""
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape_tex(view.title)}. {escape_tex(view.caption)}}}"]
    for section in view.sections:
        lines += [rf"\par\medskip\textit{{{section.kind}}}: {escape_tex(KINDS[section.kind])}\par\smallskip"]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(section.across)}}}", r"\hline"]
        heads = [rf"\shortstack[r]{{{_stacked(text)}}}" for text in section.across]
        lines += [" & " + " & ".join(heads) + r" \\", r"\hline"]
        for row in section.rows:
            label = escape_tex(row.label) + (r" \textit{(control)}" if row.control else "")
            lines.append(f"{label} & " + " & ".join(map(_latex_cell, row.cells)) + r" \\")
        lines += [r"\hline", r"\end{tabular}"]
    lines += [r"\par\smallskip", r"{\footnotesize\raggedright", escape_tex(" ".join(view.remarks))]
    lines += [rf"\par $^{{{n}}}$ {escape_tex(note)}" for n, note in enumerate(view.notes, 1)]
    return "\n".join([*lines, r"\par}", r"\end{table}"]) + "\n"


def _stacked(heading: str) -> str:
    column, _, rest = heading.partition(": ")
    return r" \\ ".join(escape_tex(part) for part in (column, rest) if part)


def _latex_cell(cell: TableCell) -> str:
    if cell.record is None:
        return "--"
    marks = "".join(f"$^{{{n}}}$" for n in cell.notes)
    first = cell.state if cell.record["obtained"] is None else " ".join(p for p in (cell.value, cell.state) if p)
    further = [cell.further, cell.published, cell.verdict]
    small = [rf"{{\scriptsize {escape_tex(part)}}}" for part in further if part]
    stacked = r" \\ ".join([escape_tex(first) + marks, *small])
    return rf"\shortstack[r]{{{stacked}}}"
