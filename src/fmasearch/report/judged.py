"""The judged model on the page: its test, and the confirmation over seeds that chose it."""

from __future__ import annotations

from collections.abc import Sequence

from fmasearch.records import ClassScore, ConfirmRecord, FinalRecord, StudyRecord, TestReport
from fmasearch.report.findings import winner
from fmasearch.report.text import count, picture, score, signed, table


def tested_sentence(final: FinalRecord, record: StudyRecord) -> str:
    """The finding in one sentence: score, interval, number of tracks, model."""
    name = _plain(record)
    test, interval = final.test, final.test.intervals.get(name)
    between = f" (95 % interval {score(interval.low)} to {score(interval.high)})" if interval else ""
    model = final.config.get("model", {})
    return (
        f"**Test {name} {score(test.metrics[name])}**{between} on {count(test.num_tracks, 'track')}: "
        f"`{model.get('architecture', '?')}`, {count(final.num_parameters, 'parameter')}, from "
        f"{final.trial}, retrained on {final.trained_on} for {count(final.epochs, 'epoch')} and tested once."
    )


def tested_section(final: FinalRecord, record: StudyRecord, pictures: Sequence[str]) -> str:
    """Metrics with intervals and validation beside them, classes, confusion matrix."""
    test = final.test
    lines = [
        "## Test",
        f"{count(test.num_tracks, 'track')} of the {test.split} split. Intervals are 95 % bootstrap "
        f"intervals, resampled by {test.resampled_by}. {_baseline(test)}",
        table(("metric", "test", "95 % interval", "validation", "test − validation"), _metric_rows(final)),
        _where_validation_is_from(final, record),
        f"Training did not start from fresh weights: {final.origin}." if final.origin else "",
    ]
    if test.classes:
        lines += [
            table(("class", "precision", "recall", "F1", "tracks", "predicted"), map(_class_row, test.classes)),
            picture("confusion_matrix", "Confusion matrix of the test split", pictures),
        ]
    return "\n\n".join(line for line in lines if line)


def _baseline(test: TestReport) -> str:
    """What one would score without a model."""
    sentences = [
        f"Always answering the largest class of the training split gives {name} {score(value)}."
        for name, value in test.baseline.items()
        if name.endswith("accuracy") and not name.endswith("balanced_accuracy")
    ]
    errors = [f"{name} {score(value)}" for name, value in test.baseline.items() if name.endswith("rmse")]
    if errors:
        sentences.append(f"Always answering the mean of the training split gives {', '.join(errors)}.")
    return " ".join(sentences)


def _metric_rows(final: FinalRecord) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, measured in final.test.metrics.items():
        interval = final.test.intervals.get(name)
        between = f"{score(interval.low)} to {score(interval.high)}" if interval else "–"
        validation = final.validation.get(f"val_{name}", final.validation.get(name))
        gap = ("–", "–") if validation is None else (score(validation), signed(measured - validation))
        rows.append((name, score(measured), between, *gap))
    return rows


def _where_validation_is_from(final: FinalRecord, record: StudyRecord) -> str:
    if final.validation:
        return "Validation is the same model's."
    confirmed = next((c for c in record.confirmed if c.trial == final.trial), None)
    text = f"The model was trained on {final.trained_on}, so it has no validation score of its own."
    if confirmed is None or not confirmed.objectives:
        return text
    gap = final.test.metrics[_plain(record)] - confirmed.mean
    return (
        f"{text} Its confirmation reached `{record.objective.metric}` {score(confirmed.mean)} (mean of "
        f"{count(len(confirmed.objectives), 'seed')}); test − validation is {signed(gap)}."
    )


def _class_row(each: ClassScore) -> tuple[str, ...]:
    if each.predicted == 0:
        return (each.name, "–", score(each.recall), score(each.f1), f"{each.support:,}", "never predicted")
    scores = (score(each.precision), score(each.recall), score(each.f1))
    return (each.name, *scores, f"{each.support:,}", f"{each.predicted:,}")


def confirmation_section(record: StudyRecord) -> str:
    """Every confirmed configuration with its mean, spread and seeds."""
    header = ("trial", "seeds", "mean ± std", "every seed", "best epochs", "in the search")
    note = (
        f"The best configurations of the search, retrained from new seeds; the best mean "
        f"`{record.objective.metric}` wins. The standard deviation is over seeds (n − 1)."
    )
    rows = [_confirm_row(confirmed, record) for confirmed in record.confirmed]
    return "\n\n".join(["## Confirmation", note, table(header, rows)])


def _confirm_row(confirmed: ConfirmRecord, record: StudyRecord) -> tuple[str, ...]:
    searched = next((trial.best for trial in record.trials if trial.name == confirmed.trial), None)
    failed = len(confirmed.curves) - len(confirmed.objectives)
    spread = f" ± {score(confirmed.std)}" if len(confirmed.objectives) > 1 else ""
    return (
        f"**{confirmed.trial}**" if confirmed.trial == winner(record) else confirmed.trial,
        str(len(confirmed.objectives)) + (f" ({failed} failed)" if failed else ""),
        f"{score(confirmed.mean)}{spread}",
        ", ".join(map(score, confirmed.objectives)),
        ", ".join(map(str, confirmed.best_epochs)),
        score(searched.objective) if searched else "–",
    )


def _plain(record: StudyRecord) -> str:
    """The objective's name without its split: `val_macro_f1` is tested as `macro_f1`."""
    return record.objective.metric.removeprefix("val_")
