"""Human tables: digits, escaping, sections by kind, footnotes; LaTeX that needs no package."""

import re

import pytest

from dgmbench.assemble.ledger import COLUMNS
from dgmbench.assemble.tables import KINDS, MOST_COLUMNS, row_labels, view
from dgmbench.assemble.tables_text import escape_markdown, escape_tex, latex, markdown
from dgmbench.format import duration, number, spread


def record(row, column="test", kind="exact", **changes):
    base = dict.fromkeys(COLUMNS) | {
        "experiment": "e",
        "row": row,
        "column": column,
        "metric": "log_likelihood",
        "unit": "nats",
        "kind": kind,
        "obtained": -12.3456,
        "test_se": 0.123,
        "estimator_se": 0.0,
        "n_seeds": 1,
        "verdict": "not published",
        "status": "done",
        "reason": "",
        "control": False,
        "published_kind": "",
    }
    return base | changes


@pytest.mark.parametrize(
    ("value", "uncertainties", "expected"),
    [
        (-123.4567, [0.123], "−123.46"),
        (123.4567, [0.0987], "123.457"),
        (123.4567, [12.0], "123"),
        (123.4567, [0.5, 12.0], "123"),
        (123.4567, [None, 0.0], "123.46"),
        (-0.5, [1e-14], "−0.5"),
        (0.0, [], "0"),
        (None, [0.1], "–"),
    ],
)
def test_numbers_have_the_digits_of_their_uncertainty(value, uncertainties, expected):
    assert number(value, uncertainties) == expected


def test_spread_and_duration():
    assert (spread(0.12345), spread(0.0), spread(None), spread(25.4)) == ("0.12", "0", "–", "25")
    assert (duration(4.2), duration(200), duration(7500)) == ("4.2 s", "3 min 20 s", "2 h 05 min")


def test_kinds_stand_in_sections_of_their_own():
    rows = [record("a"), record("a", "p", "parzen"), record("b", "p", "parzen")]
    found = view(rows, {}, "T", "c")
    assert [section.kind for section in found.sections] == ["exact", "parzen"]
    text = markdown(found)
    for kind in ("exact", "parzen"):
        assert f"**{kind}**: {escape_markdown(KINDS[kind])}" in text
    assert "log\\_likelihood \\[nats], parzen" in text


def test_wide_sections_are_turned_or_split():
    one_row = [record("a", f"c{i}") for i in range(12)]
    (turned,) = view(one_row, {"a": "A"}, "T", "c").sections
    assert turned.across == ["A"]
    assert len(turned.rows) == 12
    square = [record(f"r{j}", f"c{i}") for i in range(12) for j in range(12)]
    split = view(square, {}, "T", "c").sections
    assert [len(section.across) for section in split] == [MOST_COLUMNS, MOST_COLUMNS, 2]


def test_cells_show_three_uncertainties_and_the_published_number():
    row = record(
        "a",
        estimator_se=0.02,
        seed_sd=0.3,
        n_seeds=3,
        published=-12.0,
        published_spread=0.25,
        published_kind="lower-bound",
        verdict="protocol differs",
        reason="other kind",
    )
    text = markdown(view([row], {}, "T", "c"))
    assert "−12.35 ± 0.12<sup>1</sup><br>estimator ± 0.020, sd 0.30 over 3 seeds" in text
    assert "published −12.00 ± 0.25 (lower-bound): protocol differs" in text
    assert "1. protocol differs: other kind" in text


def test_remarks_say_how_numbers_are_to_be_read():
    plain = view([record("a")], {}, "T", "c", "Which is *better*?")
    assert len(plain.remarks) == 1
    assert "Which is \\*better\\*?" in markdown(plain)
    rows = [
        record("a", published=-12.0, published_tolerance=0.5, published_kind="exact"),
        record("b", published_tolerance=0.5),
    ]
    assert view(rows, {}, "T", "c").remarks[1] == "reproduced = within 0.5 nats of the published number."
    rows += [record("c", "time", unit="examples/second"), record("d", published_tolerance=2.0)]
    found = view(rows, {}, "T", "c")
    assert "a median over readings of the clock" in found.remarks[1]
    assert found.remarks[2].startswith("reproduced = within 0.5 nats or 2 nats of the published number; dgmbench why")
    assert all(escape_tex(remark) in latex(found) for remark in found.remarks)


def test_a_published_number_that_nobody_looked_up_says_so():
    row = record("a", published=-12.0, published_kind="exact", verdict="worse", published_protocol="CD-1; unverified")
    assert "published −12, unverified: worse" in markdown(view([row], {}, "T", "c"))
    row |= {"published_protocol": "one run; measured, not published"}
    assert "published −12, measured, not published: worse" in markdown(view([row], {}, "T", "c"))


def test_failures_are_footnoted_once_and_controls_marked():
    failed = {"obtained": None, "status": "failed", "verdict": "failed", "reason": "diverged at step 3 | now_what"}
    rows = [record("a", **failed), record("b", **failed), record("c", control=True)]
    text = markdown(view(rows, {"c": "C"}, "T", "c"))
    assert text.count("diverged at step 3") == 1
    assert text.count("failed<sup>1</sup>") == 2
    assert "C *(control)*" in text
    tex = latex(view(rows, {"c": "C"}, "T", "c"))
    assert r"failed$^{1}$" in tex
    assert r"C \textit{(control)}" in tex


def test_markdown_has_rectangular_tables():
    rows = [record("a|b", reason="x|y"), record("c", "other")]
    lines = [line for line in markdown(view(rows, {}, "T", "c")).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_escaping():
    assert escape_markdown("a|b *c* _d_ <e> [f]\n`g`") == r"a\|b \*c\* \_d\_ \<e> \[f] \`g\`"
    assert escape_tex("50% & a_b #1 {x} \\ ~ ^ $") == (
        r"50\% \& a\_b \#1 \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \$"
    )


def test_latex_is_plain_and_balanced():
    rows = [record("a_b & c", verdict="worse", published=1.0, published_kind="exact"), record("d", "other")]
    tex = latex(view(rows, {}, "Title & more", "50%"))
    assert r"\usepackage" not in tex
    assert all(command not in tex for command in ("toprule", "midrule", "multirow"))
    assert tex.isascii()
    assert tex.count(r"\begin{") == tex.count(r"\end{")
    unescaped = re.sub(r"\\[\\{}&%$#_]", "", tex)
    assert unescaped.count("{") == unescaped.count("}")
    body = [line for line in tex.splitlines() if line.endswith(r" \\") and " & " in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {2}


def labelled(row, label, chosen=(), dataset="digits", **parameters):
    return {"row": row, "label": label, "dataset": dataset, "parameters": parameters, "selected_from": list(chosen)}


def test_labels_name_the_grid_even_of_one_value_and_what_a_selection_chose():
    cells = [
        labelled("g c=1", "GMM", c=1),
        labelled("g c=2", "GMM", c=2),
        labelled("r hidden_units=3", "RBM", hidden_units=3),
    ]
    cells += [labelled("best", "GMM, chosen", ["g c=1: 0", "g c=2: 1"], c=2), labelled("plain", "Plain")]
    assert row_labels(cells) == {
        "g c=1": "GMM, c 1",
        "g c=2": "GMM, c 2",
        "r hidden_units=3": "RBM, hidden units 3",
        "best": "GMM, chosen: c 2",
        "plain": "Plain",
    }
    assert row_labels([labelled("g dataset=usps", "GMM", dataset="usps")]) == {"g dataset=usps": "GMM, dataset usps"}
    assert row_labels([labelled("a", "same"), labelled("b", "same")]) == {"a": "a", "b": "b"}
