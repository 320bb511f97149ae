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
from fmasearch.report.embedding_view import EmbeddingView

TEMPLATE = Path(__file__).with_name("embedding_page.html")

READING = (
    "Judge a picture by its row, not by its shape.{kept} Trustworthiness says whether neighbours in the picture are "
    "neighbours in the vectors. In t-SNE and UMAP only nearness means something: the distance between two groups, the "
    "size of a group and the gap around it mean little."
)
KEPT = (
    " {neighbours} and the probe say how much of {labels} the points keep: the vectors themselves are the reference, "
    "chance is the floor."
)
MEANS_TRUST = "Trustworthiness: 0.5 is chance, 1 is best."
MEANS_CLASSES = (
    "Silhouette: −1 to 1, how much closer a track is to its own class than to the next. k-NN purity: share of the 10 "
    "nearest tracks, the same artist’s left out, that are of the same class. Linear probe: accuracy of a logistic "
    "regression on the points, cross-validated, no artist in both its training and its test."
)
MEANS_TARGETS = (
    "k-NN R² and Spearman: how well the mean of the 10 nearest tracks, the same artist’s left out, tells a track’s own "
    "number. Linear probe R²: of a ridge regression on the points, cross-validated by artist, too. R² is 1 at best; "
    "0 is no better than the mean of all tracks, and less is worse."
)
MEANS_DASH = "A dash: not defined here."


def write_page(view: EmbeddingView, path: Path) -> None:
    """Write the page, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(page(view), encoding="utf-8")


def page(view: EmbeddingView) -> str:
    """The page as text."""
    parts = {
        "title": escape(view.title),
        "facts": escape(view.facts),
        "notes": "".join(f"<p>{escape(note)}</p>" for note in view.notes),
        "reading": escape(READING.format(kept=_kept(view))),
        "meanings": escape(_meanings(view)),
        "table": _table(view),
        # A script's text ends at the first `</script`, even one within a string.
        "view": json.dumps(view.to_json(), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
    }
    head, *rest = TEMPLATE.read_text(encoding="utf-8").split("{{")
    # Split once, so that braces within a part are never taken for a place.
    return head + "".join(parts[name] + text for name, text in (piece.split("}}", 1) for piece in rest))


def _kept(view: EmbeddingView) -> str:
    names = [*filter(None, [view.judged_by]), *view.judged_targets]
    if not names:
        return ""
    neighbours = ["Purity"] * (view.judged_by is not None) + ["k-NN R²"] * bool(view.judged_targets)
    labels = " and ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])
    return KEPT.format(neighbours=", ".join(neighbours), labels=labels)


def _meanings(view: EmbeddingView) -> str:
    sentences = [MEANS_TRUST]
    sentences += [MEANS_CLASSES] * (view.judged_by is not None) + [MEANS_TARGETS] * bool(view.judged_targets)
    return " ".join([*sentences, MEANS_DASH])


def _table(view: EmbeddingView) -> str:
    groups = view.quality_groups()
    about = "".join(f'<th class="edge" colspan="{len(titles)}">{escape(name)}</th>' for name, titles in groups)
    headings = "".join(
        f"<th{_edge(place)}>{escape(title)}</th>" for _, titles in groups for place, title in enumerate(titles.values())
    )
    ids = ["", *(f"{each.method}-{each.dimensions}" for each in view.projections), ""]
    rows = [_row(view, name, quality, id_) for (name, quality), id_ in zip(view.quality_rows(), ids, strict=True)]
    return (
        f'<table><thead><tr class="about"><th></th>{about}</tr><tr><th>projection</th>{headings}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _row(view: EmbeddingView, name: str, quality: Mapping[str, float], projection: str) -> str:
    marks = f' data-projection="{projection}"' if projection else ' class="reference"'
    cells = "".join(
        f"<td{_edge(place)}>{_number(quality[key])}</td>"
        for _, titles in view.quality_groups()
        for place, key in enumerate(titles)
    )
    return f"<tr{marks}><td>{escape(name)}</td>{cells}</tr>"


def _edge(place: int) -> str:
    """A line before the first number of a group."""
    return "" if place else ' class="edge"'


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")
