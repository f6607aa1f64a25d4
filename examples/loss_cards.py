"""The loss cards of the paper's example losses (Table 6), as Markdown.

    python examples/loss_cards.py > docs/loss-cards.md

They contain no timings, so the same version always prints the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evomal.analysis.analysis import analyze
from evomal.analysis.published import PUBLISHED_LOSSES
from evomal.cli.analysis_report import dual_point_sentences, property_text, value_text

CLASSES = 10

INTRODUCTION = """\
# Loss cards of the published losses

The output of `evomal analyze` for the example losses in Table 6 of the paper, and for the form of
6e in its appendix A, generated with

```bash
python examples/loss_cards.py > docs/loss-cards.md
```

The paper does not give the weights of these losses, so all are 1 here, which can lose their signs:
6d has its minimum where the target's probability is 0, and 6g where the prediction is far from 0.
Each card describes the formula only. A dash means a constant or an unknown value.

The classification losses (6a to 6e, with softmax) are analysed for 10 classes. δ = -∂L/∂f is the
pull of a loss on an output, at the null epoch (all f = 1/10) and near zero training error (f → 1
at the target, → 0 elsewhere), with the probabilities as free variables and in the logits. Nearest
is the closest of cross-entropy, label smoothing with ξ = 0.1 and the focal loss with γ = 2. The
regression losses (6f to 6j) are described by the residual r = f - y for standardised targets.
"""


def markdown() -> Iterator[str]:
    """The page, line by line."""
    yield INTRODUCTION
    analyses = {
        place: analyze(
            published.loss,
            CLASSES if published.link == "softmax" else None,
            name=published.formula,
            measure=False,
        )
        for place, published in PUBLISHED_LOSSES.items()
    }
    for link, title in [("softmax", "classification"), ("identity", "regression")]:
        first = next(fields for fields in analyses.values() if fields["link"] == link)
        yield f"## How the properties of {title} losses are computed\n"
        yield from _table(
            ["property", "how"],
            [[property_text(name), row["how"]] for name, row in first["card"].items()],
        )
    for place, fields in analyses.items():
        yield f"## {place}: {fields['loss']}\n"
        yield f"`{fields['expression']}`\n"
        if PUBLISHED_LOSSES[place].note:
            yield f"{PUBLISHED_LOSSES[place].note}\n"
        yield " ".join(fields["summary"]) + "\n"
        if fields["classes"] is not None:
            yield from _dual_points(fields)
        rows = [
            [property_text(name), value_text(row["value"])] for name, row in fields["card"].items()
        ]
        yield from _table(["property", "value"], rows)


def _dual_points(fields: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [
            f"{point.replace('_', ' ')}, {title}",
            value_text(fields[point][output]),
            value_text(fields["logits"][point][output]),
        ]
        for point in ("null_epoch", "zero_error")
        for output, title in (("target", "target"), ("non_target", "others"))
    ]
    yield from _table(["δ", "in f", "in the logits"], rows)
    for sentence in dual_point_sentences(fields):
        yield sentence.replace("*", "\\*") + "\n"


def _table(columns: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


if __name__ == "__main__":
    print("\n".join(markdown()).rstrip())
