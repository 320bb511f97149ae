"""How sure the winner is: ahead of the others or not, what the search flattered, and what the test took away."""

from __future__ import annotations

from fmasearch.records import ConfirmRecord, FinalRecord, Lead, Objective, StudyRecord
from fmasearch.report.findings import winner
from fmasearch.report.text import count, score, signed, table


def sureness_section(record: StudyRecord) -> str:
    """The section; empty without a confirmation."""
    if not record.confirmed:
        return ""
    parts = [
        "## How sure is the winner",
        _ahead(record),
        _selection_gap(record),
        _test_gap(record.final, record) if record.final else "",
        earlier_tests_sentence(record.final) if record.final else "",
    ]
    return "\n\n".join(part for part in parts if part)


def lead_sentence(lead: Lead, metric: str) -> str:
    """Whether two configurations can be told apart, in one plain sentence.

    Args:
        metric: the objective as a search names it, such as `val_macro_f1`.
    """
    if lead.difference is None:
        return f"Whether {lead.trial} is better than {lead.other} cannot be said: {lead.reason}."
    tracks, found = count(lead.num_tracks, "validation track"), lead.difference
    difference = (
        f"difference in {_plain(metric)} {signed(found.value)} (95 % interval {signed(found.low)} to "
        f"{signed(found.high)})"
    )
    if lead.is_clear:
        return f"{lead.trial} is ahead of {lead.other} by more than chance explains on {tracks}: {difference}."
    return f"{lead.trial} and {lead.other} cannot be told apart on {tracks}: {difference}."


def earlier_tests_sentence(final: FinalRecord) -> str:
    """That other studies had tested their winners on the same split; empty if none had."""
    tests = final.earlier_tests
    if not tests:
        return ""
    names = ", ".join(tests) if len(tests) <= 3 else f"{', '.join(tests[:3])} and others"
    times = "once" if len(tests) == 1 else f"{len(tests):,} times"
    return (
        f"This file's test split had been opened {times} before, by studies of the same runs folder ({names}). "
        f"Choosing between models by their test scores is a selection on the test split: the best looks better than "
        f"it is."
    )


def _ahead(record: StudyRecord) -> str:
    if len(record.confirmed) < 2:
        return "Only one configuration was confirmed: there is no second one to compare it with."
    if not record.leads:
        return "The confirmed configurations were not compared track by track."
    first, metric = record.leads[0], record.objective.metric
    parts = [f"**{lead_sentence(first, metric)}**"]
    compared = [lead for lead in record.leads if lead.difference is not None]
    if compared:
        header = ("trial", f"`{_plain(metric)}` of {first.trial} minus its own", "95 % interval", "told apart")
        parts += [table(header, map(_row, compared)), _how(compared[0])]
    parts += [lead_sentence(lead, metric) for lead in record.leads[1:] if lead.difference is None]
    return "\n\n".join(parts)


def _row(lead: Lead) -> tuple[str, ...]:
    assert lead.difference is not None
    between = f"{signed(lead.difference.low)} to {signed(lead.difference.high)}"
    return (lead.other, signed(lead.difference.value), between, "yes" if lead.is_clear else "no")


def _how(lead: Lead) -> str:
    seeds = "and seeds" if min(lead.num_seeds) > 1 else "but not seeds, of which there is only one"
    return (
        f"Differences of means over seeds, on the {count(lead.num_tracks, 'validation track')}; paired bootstrap over "
        f"{lead.resampled_by}s {seeds}. {lead.trial} was chosen by these very scores, which flatters its lead."
    )


def _selection_gap(record: StudyRecord) -> str:
    """What the search saw in the winner, and in its own best trial, against what confirmation saw."""
    chosen = next((each for each in record.confirmed if each.trial == winner(record)), record.confirmed[0])
    ranked = record.ranked()
    searched = {trial.name: trial.best.objective for trial in ranked if trial.best}
    if chosen.trial not in searched:
        return ""
    best = ranked[0].name
    place = f"as the best of {count(len(ranked), 'trial')}" if best == chosen.trial else f"behind {best}"
    sentences = [_gap(chosen, searched[chosen.trial], record.objective, place)]
    if best != chosen.trial:
        confirmed = next((each for each in record.confirmed if each.trial == best), None)
        of = f"as the best of {count(len(ranked), 'trial')}"
        sentences.append(
            _gap(confirmed, searched[best], record.objective, of)
            if confirmed
            else f"{best}, the best of the search with {score(searched[best])}, has no confirmation."
        )
    return " ".join(sentences)


def _gap(confirmed: ConfirmRecord, searched: float, objective: Objective, place: str) -> str:
    seeds = count(len(confirmed.objectives), "seed")
    spread = f" ± {score(confirmed.std)}" if len(confirmed.objectives) > 1 else ""
    gap = abs(searched - confirmed.mean)
    flattered = objective.better(searched, confirmed.mean) and gap >= 0.0005  # three decimals are shown
    return (
        f"The search saw {confirmed.trial} at `{objective.metric}` {score(searched)}, {place}; retrained over {seeds} "
        f"its mean is {score(confirmed.mean)}{spread}: "
        f"{f'a selection gap of {score(gap)}' if flattered else 'no selection gap'}."
    )


def _test_gap(final: FinalRecord, record: StudyRecord) -> str:
    name = _plain(record.objective.metric)
    validated = final.validation.get(record.objective.metric)
    whose = "The retrained model's validation"
    if validated is None:
        confirmed = next((each for each in record.confirmed if each.trial == final.trial), None)
        validated, whose = confirmed.mean if confirmed else None, "The mean of its confirmation"
    tested, interval = final.test.metrics.get(name), final.test.intervals.get(name)
    if validated is None or tested is None:
        return ""
    sentence = f"{whose} `{name}` is {score(validated)}, its test {score(tested)}"
    if interval is None:
        return f"{sentence}: test − validation is {signed(tested - validated)}."
    inside = "lies inside" if interval.low <= validated <= interval.high else "lies outside"
    return (
        f"{sentence} (95 % interval {score(interval.low)} to {score(interval.high)}): test − validation is "
        f"{signed(tested - validated)}, and the validation score {inside} the test's interval."
    )


def _plain(metric: str) -> str:
    return metric.removeprefix("val_")
