"""The page that people read first: what was found, how sure that is, what it cost, how to repeat it.

Every number is taken from the record, and says what it counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from fmasearch.records import StudyRecord, TrialRecord, TrialState, pareto_front
from fmasearch.report.findings import best_config, epochs_spared, space_of, varied
from fmasearch.report.judged import confirmation_section, tested_section, tested_sentence
from fmasearch.report.looks import with_looks
from fmasearch.report.sureness import sureness_section
from fmasearch.report.text import count, distribution, duration, flat, picture, score, table, value

TOP = 10
ENDED = (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)


def readme(record: StudyRecord, *, folder: str, pictures: Sequence[str]) -> str:
    """The page as Markdown.

    Args:
        folder: the folder's path as people will type it.
        pictures: names of the pictures that exist, such as `learning_curves`.
    """
    sections = [
        f"# {record.name}",
        _headline(record),
        picture("learning_curves", f"{record.objective.metric} of every trial by epoch", pictures),
        tested_section(record.final, record, pictures) if record.final else "",
        sureness_section(record),
        confirmation_section(record) if record.confirmed else "",
        _trials(record, pictures),
        _front(record) if len(record.objectives) > 1 else "",
        _searched(record),
        _cost(record),
        _reproduce(record, folder),
    ]
    return with_looks("\n\n".join(section for section in sections if section) + "\n", record.looks)


def _headline(record: StudyRecord) -> str:
    notes = "\n".join(f"- {note[:1].upper()}{note[1:]}." for note in record.notes)
    return "\n\n".join(part for part in (_finding(record), _effort(record), notes) if part)


def _finding(record: StudyRecord) -> str:
    if record.final:
        return tested_sentence(record.final, record)
    ranked = record.ranked()
    if not ranked or ranked[0].best is None:
        return "**No trial gave a result.**"
    best = ranked[0].best
    return (
        f"**Search only: no model has been retrained and tested.** Best validation so far: "
        f"`{record.objective.metric}` {score(best.objective)} ({ranked[0].name}, epoch {best.epoch}). "
        f"Being the best of {count(len(ranked), 'trial')}, it is an optimistic estimate."
    )


def _effort(record: StudyRecord) -> str:
    states = ", ".join(f"{record.count(state)} {state}" for state in ENDED if record.count(state))
    trials = count(len(record.trials), "trial") + (f" ({states})" if states else "")
    device = record.environment.get("device")
    where = f" on {device}" if device else ""
    epochs, took = count(record.num_epochs, "epoch"), duration(record.search_seconds)
    return f"The search: {trials}, {epochs}, {took}{where}."


def _trials(record: StudyRecord, pictures: Sequence[str]) -> str:
    top = record.ranked()[:TOP]
    header = ("#", "trial", "state", record.objective.metric, "at epoch", "epochs", "seconds")
    ranking = [(str(place), *_trial_row(trial)) for place, trial in enumerate(top, start=1)]
    space = space_of(record)
    keys = varied(record, space.distributions if space else ())
    params = [(key, *(value(t.start.params[key]) if key in t.start.params else "" for t in top)) for key in keys]
    failures = [t for t in record.trials if t.state is TrialState.FAILED]
    parts = [
        "## Trials",
        f"The best {len(top)} of {count(len(record.trials), 'trial')}; all are in `trials.jsonl`." if top else "",
        table(header, ranking, left=3) if top else "",
        "Their parameters, as far as they varied (empty: did not apply):" if top and keys else "",
        table(("key", *(t.name for t in top)), params) if top and keys else "",
        picture("parameters", "Best objective of every trial against each parameter", pictures),
        "Failed:\n\n" + "\n".join(map(_failure, failures)) if failures else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _front(record: StudyRecord) -> str:
    """What one pays for the best: no other trial is as good for less."""
    metrics = [objective.metric for objective in record.objectives]
    rows = [
        (trial.name, str(trial.state), *(value(trial.value(objective)) for objective in record.objectives))
        for trial in pareto_front(record.trials, record.objectives)
    ]
    said = (
        f"Trials that no other one beats in {', '.join(metrics[:-1])} and {metrics[-1]} at once. A pruned trial is "
        f"there with what it had reached. The winner is chosen by `{metrics[0]}` alone."
    )
    return "\n\n".join(["## Pareto front", said, table(("trial", "state", *metrics), rows, left=2)])


def _trial_row(trial: TrialRecord) -> tuple[str, ...]:
    assert trial.best is not None
    name = f"{trial.name} ({trial.start.label})" if trial.start.label else trial.name
    best = (score(trial.best.objective), str(trial.best.epoch))
    return (name, str(trial.state), *best, str(len(trial.epochs)), f"{trial.seconds:,.0f}")


def _failure(trial: TrialRecord) -> str:
    reason = " ".join((trial.error or "no reason was recorded").split())
    return f"- {trial.name}, after {count(len(trial.epochs), 'epoch')}: {reason[:300]}"


def _searched(record: StudyRecord) -> str:
    space = space_of(record)
    parts = [f"## What was searched\n\nSpace `{record.space_name}`, search `{record.search_name}`."]
    if space is not None:
        rows = [
            (key, distribution(each), " and ".join(map(str, space.conditions.get(key, ()))))
            for key, each in space.distributions.items()
        ]
        parts.append(table(("key", "values", "only when"), rows, left=3))
    text = record.space_text.rstrip()
    parts.append(_folded("The space file", f"```yaml\n{text}\n```"))
    parts.append(_folded("Every setting of the search", table(("key", "value"), flat(record.search), left=2)))
    return "\n\n".join(parts)


def _cost(record: StudyRecord) -> str:
    curves = [curve for confirmed in record.confirmed for curve in confirmed.curves]
    stages = [
        ("search", len(record.trials), record.num_epochs, sum(trial.seconds for trial in record.trials)),
        ("confirmation", len(curves), sum(len(c.epochs) for c in curves), sum(c.seconds for c in curves)),
    ]
    if record.final:
        stages.append(("final training and test", 1, len(record.final.curve), record.final.seconds))
    rows = [(stage, f"{n:,}", f"{epochs:,}", duration(seconds)) for stage, n, epochs, seconds in stages if n]
    clock = f"The search took {duration(record.search_seconds)} by the clock. {_spared(record)}".rstrip()
    header = ("stage", "trainings", "epochs", "time, summed over trainings")
    return "\n\n".join(["## Cost", table(header, rows), clock])


def _spared(record: StudyRecord) -> str:
    """What early stopping saved, counted from the record alone."""
    spared, max_epochs = epochs_spared(record), record.search.get("max_epochs")
    num_pruned = record.count(TrialState.PRUNED)
    if not num_pruned or spared is None or max_epochs is None:
        return ""
    full = len(record.trials) * max_epochs
    return (
        f"The scheduler stopped {num_pruned} of {count(len(record.trials), 'trial')}, which spared them "
        f"{count(spared, 'epoch')}. All trials together trained {record.num_epochs:,} of the {full:,} epochs "
        f"that {len(record.trials)} x {max_epochs} would have been."
    )


def _reproduce(record: StudyRecord, folder: str) -> str:
    lines = [record.command]
    if best_config(record) is not None:
        data = record.data.get("path", "<the feature file>")
        lines.append(f"fmasearch train {folder}/best.yaml --data {data}   # the winner alone")
    about_data = table(("data", ""), flat(record.data), left=2)
    environment = table(("environment", ""), [(k, str(v)) for k, v in record.environment.items()], left=2)
    seed = record.search.get("seed")
    note = f"Study seed {seed}; the seeds of all trials follow from it and are in `trials.jsonl`."
    parts = ["## Reproduce", "```sh\n" + "\n".join(lines) + "\n```", note, about_data, environment]
    return "\n\n".join(part for part in parts if part)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"
