"""The page of an embedding: one HTML file that opens from a disk, to turn, colour and search its projections.

The template lies beside this module. Nothing is loaded from elsewhere: plotly.js (4.8 MB) is part of the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from fmasearch.files import replacing
from fmasearch.report.embedding_view import QUALITY_TITLES, EmbeddingView

TEMPLATE = Path(__file__).with_name("embedding_page.html")

READING = (
    "Judge a picture by its row, not by its shape. Purity and the probe say how much of {classes} the points keep: "
    "the vectors themselves are the reference, chance is the floor. Trustworthiness says whether neighbours in the "
    "picture are neighbours in the vectors. In t-SNE and UMAP only nearness means something: the distance between "
    "two groups, the size of a group and the gap around it mean little."
)
MEANINGS = (
    "Silhouette: −1 to 1, how much closer a track is to its own class than to the next. k-NN purity: share of the 10 "
    "nearest tracks, the same artist’s left out, that are of the same class. Trustworthiness: 0.5 is chance, 1 is "
    "best. Linear probe: accuracy of a logistic regression on the points, cross-validated, no artist in both its "
    "training and its test. A dash: not defined here."
)


def write_page(view: EmbeddingView, path: Path) -> None:
    """Write the page, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(page(view), encoding="utf-8")


def page(view: EmbeddingView) -> str:
    """The page as text."""
    classes = "the classes" if view.judged_by is None else view.judged_by
    parts = {
        "title": escape(view.title),
        "facts": escape(view.facts),
        "notes": "".join(f"<p>{escape(note)}</p>" for note in view.notes),
        "reading": escape(READING.format(classes=classes)),
        "meanings": escape(MEANINGS),
        "table": _table(view),
        # A script's text ends at the first `</script`, even one within a string.
        "view": json.dumps(view.to_json(), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
    }
    head, *rest = TEMPLATE.read_text(encoding="utf-8").split("{{")
    # Split once, so that braces within a part are never taken for a place.
    return head + "".join(parts[name] + text for name, text in (piece.split("}}", 1) for piece in rest))


def _table(view: EmbeddingView) -> str:
    headings = "".join(f"<th>{escape(title)}</th>" for title in ("projection", *QUALITY_TITLES.values()))
    ids = ["", *(f"{each.method}-{each.dimensions}" for each in view.projections), ""]
    rows = [_row(name, quality, id_) for (name, quality), id_ in zip(view.quality_rows(), ids, strict=True)]
    return f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(name: str, quality: Mapping[str, float], projection: str) -> str:
    marks = f' data-projection="{projection}"' if projection else ' class="reference"'
    cells = "".join(f"<td>{_number(quality[key])}</td>" for key in QUALITY_TITLES)
    return f"<tr{marks}><td>{escape(name)}</td>{cells}</tr>"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")
