"""The model card: what a study's model is for, how it was tested, and where it ends.

Headings follow Mitchell et al., Model Cards for Model Reporting (FAT* 2019). Every number is taken from the record;
what the record does not know is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fmasearch.records import FinalRecord, StudyRecord, TestReport
from fmasearch.report.judged import tested_sentence
from fmasearch.report.looks import with_looks
from fmasearch.report.sureness import earlier_tests_sentence, lead_sentence
from fmasearch.report.text import count, duration, score, table

FEW_TRACKS = 30  # of a class in the test split: its row is an anecdote
WEAK_F1 = 0.5


def model_card(record: StudyRecord) -> str:
    """The page as Markdown, of a study whose winner was tested."""
    final = record.final
    assert final is not None
    sections = [
        f"# Model card: {record.name}",
        tested_sentence(final, record),
        _details(record, final),
        _intended_use(record, final),
        _factors(record, final.test),
        _metrics(record, final.test),
        _evaluation_data(record, final.test),
        _training_data(record, final),
        _analyses(final.test),
        _ethics(record),
        _caveats(record, final),
    ]
    return with_looks("\n\n".join(section for section in sections if section) + "\n", record.looks)


def _details(record: StudyRecord, final: FinalRecord) -> str:
    model = final.config.get("model", {})
    environment = record.environment
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("fmasearch", "python", "torch") if name in environment
    )
    features = ", ".join(f"{name}{_shape(shape)}" for name, shape in record.data.get("features", {}).items())
    rows = [
        ("what it predicts", _predicts(final.config.get("task", {}), record.data)),
        ("what it hears", features),
        ("architecture", f"`{model.get('architecture', '?')}`, {count(final.num_parameters, 'parameter')}"),
        ("start", final.origin or "fresh weights"),
        ("trained on", f"{final.trained_on}, {count(final.epochs, 'epoch')}, {duration(final.seconds)} with its test"),
        ("found by", _search_cost(record)),
        ("versions", versions),
        ("commit", str(environment.get("commit", ""))),
    ]
    return "## Model Details\n\n" + table(("", ""), [row for row in rows if row[1]], left=2)


def _predicts(task: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    parts = [task.get("classification"), task.get("regression"), *(task.get("multitask") or {}).values()]
    words = []
    for part in filter(None, parts):
        if isinstance(part, str):
            words.append(f"`{part}`, one of {', '.join(data.get('classes', []))}")
        else:
            words.append(f"the numbers {', '.join(part)}, in the labels' own units")
    return "; and ".join(words)


def _shape(shape: Any) -> str:
    return f" ({shape[0]:,} frames of {shape[1]} bins)" if isinstance(shape, list | tuple) and len(shape) == 2 else ""


def _search_cost(record: StudyRecord) -> str:
    curves = [curve for confirmed in record.confirmed for curve in confirmed.curves]
    confirmed = f", then {count(len(curves), 'retraining')} over seeds" if curves else ""
    return (
        f"a search of {count(len(record.trials), 'trial')}, {count(record.num_epochs, 'epoch')}, "
        f"{duration(record.search_seconds)}{confirmed}"
    )


def _intended_use(record: StudyRecord, final: FinalRecord) -> str:
    model, data = f"runs/{record.name}/model.pt", record.data.get("file", "<the feature file>")
    uses = (
        "Sorting and describing recordings like those of its corpus, and comparing methods on it. It is no judge of a "
        "person, a culture or a piece's worth, and no ground for payment or removal."
    )
    commands = [
        f"fmasearch predict {model} song.mp3",
        f"fmasearch test {model} --data {data}",
        f"fmasearch embed {model} --data {data}",
    ]
    return "\n\n".join(["## Intended Use", uses, "```sh\n" + "\n".join(commands) + "\n```"])


def _factors(record: StudyRecord, test: TestReport) -> str:
    artists = record.data.get("artists", {})
    if test.resampled_by == "track":
        text = (
            "The artists of the test tracks are not all known. If some are in the training split, too, these scores "
            "are too high: tracks of one artist are alike (Flexer & Schnitzer 2010)."
        )
    elif shared := artists.get("in_train_and_test"):
        text = (
            f"**{count(shared, 'artist')} have tracks in the training and in the test split**: these scores are "
            f"too high, as tracks of one artist are alike (Flexer & Schnitzer 2010)."
        )
    elif artists:
        text = "No artist is in both the training and the test split."
    else:
        text = "The artists of the test tracks are known; intervals resample whole artists."
    return f"## Factors\n\n{text} Scores are given per class and per target below, not per language, era or quality."


def _metrics(record: StudyRecord, test: TestReport) -> str:
    answers = ["the training split's largest class"] if test.classes else []
    if any(name.endswith("rmse") for name in test.baseline):
        answers.append("the training split's mean of every target")
    baseline = f" The baseline always answers {' and '.join(answers)}." if answers else ""
    return (
        f"## Metrics\n\nThe search compared models by `{record.objective.metric}`. Intervals are 95 % bootstrap "
        f"intervals over {test.resampled_by}s.{baseline}"
    )


def _evaluation_data(record: StudyRecord, test: TestReport) -> str:
    return (
        f"## Evaluation Data\n\n{count(test.num_tracks, 'track')} of the {test.split} split of the same file as the "
        f"training, opened once by the study, after every choice was made. {_other_studies(record)}".rstrip()
    )


def _other_studies(record: StudyRecord) -> str:
    return earlier_tests_sentence(record.final) if record.final else ""


def _training_data(record: StudyRecord, final: FinalRecord) -> str:
    data = record.data
    tracks = ", ".join(f"{name} {number:,}" for name, number in data.get("tracks", {}).items())
    licences = data.get("licences", {})
    rows = [
        ("file", str(data.get("file", ""))),
        ("sha256", str(data.get("sha256", ""))),
        ("corpus", str(data.get("corpus", ""))),
        ("source", str(data.get("source", ""))),
        ("tracks", tracks),
        ("used to train", final.trained_on),
        ("licences", ", ".join(f"{name}: {number:,}" for name, number in licences.items())),
    ]
    note = (
        "The licences are of the recordings. Whether a model trained on them falls under their terms is not settled; "
        "mind those that exclude commercial use or derived works."
        if licences
        else "The file records no licences of the recordings: find them out before you pass the model on."
    )
    return "\n\n".join(["## Training Data", table(("", ""), [row for row in rows if row[1]], left=2), note])


def _analyses(test: TestReport) -> str:
    rows = []
    for name, measured in test.metrics.items():
        interval = test.intervals.get(name)
        between = f"{score(interval.low)} to {score(interval.high)}" if interval else "–"
        rows.append((name, score(measured), between, score(test.baseline.get(name, math.nan))))
    parts = ["## Quantitative Analyses", table(("metric", "test", "95 % interval", "baseline"), rows)]
    if test.classes:
        classes = [
            (
                each.name,
                score(each.precision) if each.predicted else "never predicted",
                score(each.recall),
                score(each.f1),
                f"{each.support:,}",
            )
            for each in test.classes
        ]
        parts.append(table(("class", "precision", "recall", "F1", "tracks"), classes))
    return "\n\n".join(parts)


def _ethics(record: StudyRecord) -> str:
    corpus = record.data.get("corpus") or "its corpus"
    return (
        "## Ethical Considerations\n\n"
        f"Labels are what somebody called the music of {corpus}: artists, listeners or editors of one place and time. "
        "The model repeats their habits, for music that they did not have in mind, too."
    )


def _caveats(record: StudyRecord, final: FinalRecord) -> str:
    test = final.test
    lines = [
        "One corpus: nothing here says how the model does on recordings of another kind, length or quality.",
        "Labels are noisy: people who label the same track disagree, so no score can be trusted to the last digit, "
        "and a perfect one is out of reach.",
        "The intervals cover which tracks were drawn for the test; not the seed of the training, the luck of the "
        "search, or the choice of this corpus.",
    ]
    if record.leads:
        lines.append(lead_sentence(record.leads[0], record.objective.metric))
    never = [each.name for each in test.classes if each.predicted == 0]
    weak = [each.name for each in test.classes if each.predicted and each.f1 < WEAK_F1]
    few = [f"{each.name} ({each.support:,})" for each in test.classes if each.support < FEW_TRACKS]
    if never:
        lines.append(f"**Never predicted: {', '.join(never)}.** The model does not know {_them(never)}.")
    if weak:
        lines.append(f"F1 below {WEAK_F1}: {', '.join(weak)}; do not rely on {_them(weak)}.")
    if few:
        lines.append(f"Fewer than {FEW_TRACKS} test tracks: {', '.join(few)}; {_their(few)} rows are rough.")
    if test.classes:
        lines.append(
            "Probabilities may be too sure or too careful: see `ece` above before setting a threshold on them."
        )
    lines.append("Songs longer than the clips it was trained on are heard in windows, which was not tested here.")
    return "\n\n".join(["## Caveats and Recommendations", "\n".join(f"- {line}" for line in lines)])


def _them(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _their(names: list[str]) -> str:
    return "its" if len(names) == 1 else "their"
