"""The stages of a study, one after the other: search, confirm, final, record."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fmasearch.cli import environment
from fmasearch.cli.data_facts import origin_facts
from fmasearch.cli.genres import genre_facts
from fmasearch.cli.live import LiveView, rung_epochs
from fmasearch.cli.looks import earlier_tests, read_looks, remember_record
from fmasearch.data import read_info
from fmasearch.finalize import confirm_starts, confirmed, final_training, leads, train_final
from fmasearch.ray_session import cluster_nodes
from fmasearch.records import ConfirmRecord, EpochResult, FinalRecord, Objective, StudyRecord
from fmasearch.report import MODEL_CARD, write_results
from fmasearch.report.sureness import earlier_tests_sentence, lead_sentence
from fmasearch.searcher import num_trials, warm_start_notes
from fmasearch.study import (
    Runtime,
    SearchResult,
    StudyPlan,
    cluster_notes,
    run_elsewhere,
    run_jobs,
    run_search,
    study_runtime,
)
from fmasearch.study.earlier import load_earlier
from fmasearch.study.stopping import stop_requested
from fmasearch.tasks import study_objective
from fmasearch.tracking import CompositeTracker, JsonlTracker, read_journal, replay
from fmasearch.tracking.mlflow_tracker import MlflowTracker


class Interrupted(Exception):
    """The user stopped the study; it can be resumed."""


def run(plan: StudyPlan, results: Path, tracking_uri: str, console: Console, *, resumed: bool) -> Path:
    """Run every stage that is left; returns the results folder."""
    _, task = plan.space.inputs()
    objective = study_objective(task)
    facts = environment.describe()
    mlflow = _mlflow(plan, tracking_uri, objective, facts, resumed=resumed)
    status: Any = "failed"
    try:
        with study_runtime(plan) as runtime:
            for note in cluster_notes(plan, runtime):
                console.print(note, highlight=False, soft_wrap=True)
            searched = _search(plan, objective, runtime, mlflow, console)
            if not searched.trials or not any(trial.best for trial in searched.trials):
                raise _nothing_found(searched)
            confirmation = _confirm(plan, searched, objective, runtime, console)
            mlflow.log_confirmation(confirmation)
            ahead = leads(confirmation, plan.folder.confirm_outputs)
            for lead in ahead[:1]:
                console.print(lead_sentence(lead, objective.metric), highlight=False, soft_wrap=True)
            final = _final(plan, confirmation[0], console, facts, runtime) if runtime.on_cluster else None
        # Ray on this machine has ended by now: the final training has all of its memory.
        final = final or _final(plan, confirmation[0], console, facts, runtime)
        record = _record(plan, objective, searched, confirmation, final, facts)
        record = replace(record, leads=ahead, looks=read_looks(plan.folder.root))
        folder = results / plan.name
        write_results(record, folder, replace=resumed)  # it is there if the study was extended
        remember_record(plan.folder.root, folder)
        shutil.copyfile(folder / MODEL_CARD, plan.folder.model_file.with_name(MODEL_CARD))
        mlflow.log_final(final, [folder, plan.folder.model_file])
        mlflow.describe((folder / "README.md").read_text(encoding="utf-8"))
        status = "finished"
        _print_outcome(console, record)
        return folder
    except (Interrupted, KeyboardInterrupt):
        status = "interrupted"
        raise Interrupted from None
    finally:
        mlflow.close(status)


def _search(
    plan: StudyPlan, objective: Objective, runtime: Runtime, mlflow: MlflowTracker, console: Console
) -> SearchResult:
    earlier = read_journal(plan.folder.journal).finished
    view = LiveView(
        console,
        f"search {plan.space.name}",
        objective,
        total=num_trials(plan.search, plan.space),
        rungs=rung_epochs(plan.search),
        finished=earlier,
        nodes=cluster_nodes if runtime.on_cluster else None,
    )
    journal = JsonlTracker(plan.folder.journal)
    replay(read_journal(plan.folder.journal), mlflow)  # what it missed when the driver was killed
    with view.showing():
        result = run_search(plan, objective, runtime, CompositeTracker([journal, mlflow, view]))
    if result.ended_early and result.ended_early not in read_journal(plan.folder.journal).notes:
        journal.note(result.ended_early)
        console.print(f"the search ended early: {result.ended_early}", highlight=False, soft_wrap=True, markup=False)
    journal.close("interrupted" if result.interrupted else "finished")
    if result.interrupted:
        raise Interrupted
    return result


def _confirm(
    plan: StudyPlan, searched: SearchResult, objective: Objective, runtime: Runtime, console: Console
) -> tuple[ConfirmRecord, ...]:
    """Retrain the best few over seeds; trainings that an earlier session finished are kept."""
    ranked = _as_record(plan, objective, searched).ranked()
    starts = confirm_starts(ranked, plan.search)
    known = read_journal(plan.folder.confirm_journal)
    earlier = {record.name: record for record in known.finished}
    cut_off = {trial.start.name: trial.epochs for trial in known.unfinished}
    left = [start for start in starts if start.name not in earlier]
    journal = JsonlTracker(plan.folder.confirm_journal)
    view = LiveView(
        console,
        "confirm over seeds",
        objective,
        total=len(starts),
        finished=tuple(earlier.values()),
        nodes=cluster_nodes if runtime.on_cluster else None,
    )
    with view.showing():
        run_jobs(plan, left, runtime, CompositeTracker([journal, view]), objective=objective, earlier=cut_off)
    done = {record.name: record for record in read_journal(plan.folder.confirm_journal).finished}
    finished = all(start.name in done for start in starts)
    journal.close("finished" if finished else "interrupted")
    if not finished:
        raise Interrupted
    return confirmed(starts, done, objective)


def _final(
    plan: StudyPlan, winner: ConfirmRecord, console: Console, facts: dict[str, str], runtime: Runtime
) -> FinalRecord:
    """Retrain and test the winner: here, or where the cluster has room, since its head has no GPU perhaps."""
    if (kept := _kept_final(plan, winner)) is not None:
        console.print(f"{winner.trial} won before, too: its test stands", highlight=False, soft_wrap=True)
        return kept
    console.print(
        f"retrain {winner.trial} (confirmed {winner.mean:.4f} ± {winner.std:.4f} over {len(winner.objectives)} seeds), "
        f"then test it once",
        highlight=False,
        soft_wrap=True,
    )
    gpu = runtime.trial_gpus > 0 and (runtime.on_cluster or torch.cuda.is_available())
    torch.set_num_threads(max(1, int(runtime.trial_cpus)))  # as the trials had: the same numbers, no more
    with console.status("final training") as status:

        def show(result: EpochResult) -> None:
            if stop_requested(plan.folder):
                raise Interrupted
            status.update(f"final training, epoch {result.epoch}: train_loss {result.metrics['train_loss']:.4f}")

        return train_final(
            winner,
            plan.data,
            plan.search,
            plan.folder.model_file,
            plan.folder.final_file,
            device="cuda" if gpu else "cpu",
            versions=facts,
            on_epoch=show,
            run=partial(run_elsewhere, final_training, runtime) if runtime.on_cluster else None,
            study=plan.name,
            earlier_tests=earlier_tests(plan.folder.root.parent, plan.name, plan.data.sha256),
        )


def _kept_final(plan: StudyPlan, winner: ConfirmRecord) -> FinalRecord | None:
    """The test of before the study was extended, if the same trial wins again: the test split stays closed."""
    if plan.folder.final_file.exists() or not (earlier := plan.folder.earlier_finals):
        return None
    last = FinalRecord.from_json(json.loads(earlier[-1].read_text(encoding="utf-8")))
    if last.trial != winner.trial:
        return None
    earlier[-1].rename(plan.folder.final_file)
    return last


def _mlflow(plan: StudyPlan, uri: str, objective: Objective, facts: dict[str, str], *, resumed: bool) -> MlflowTracker:
    tags = {**plan.hashes, "mlflow.source.name": plan.command, "fmasearch.data": plan.data.name}
    tags |= {f"fmasearch.env.{name}": value for name, value in facts.items() if name != "commit"}
    if "commit" in facts:
        tags["mlflow.source.git.commit"] = facts["commit"]
    if plan.data.genres is not None:
        tags["fmasearch.genres"] = plan.data.genres.describe()
    return MlflowTracker(
        uri,
        plan.space.name,
        plan.name,
        objective=objective,
        tags=tags,
        params=plan.search.model_dump(mode="json"),
        resume=resumed,
        runs=plan.folder.root.parent,
    )


def _record(
    plan: StudyPlan,
    objective: Objective,
    searched: SearchResult,
    confirmation: tuple[ConfirmRecord, ...],
    final: FinalRecord | None,
    facts: dict[str, str],
) -> StudyRecord:
    info = read_info(plan.data.path)
    return StudyRecord(
        name=plan.name,
        space_name=plan.space.name,
        search_name=plan.search_name,
        objective=objective,
        command=plan.command,
        space_text=plan.space.text,
        search=plan.search.model_dump(mode="json"),
        data={
            "file": plan.data.name,
            "sha256": plan.data.sha256,
            "corpus": info.corpus,
            "tracks": dict(info.split_counts),
            **({"classes": list(plan.data.class_names(info))} if plan.data.label else {}),
            **genre_facts(plan.data.genres),
            **(origin_facts(info) if final else {}),  # the columns of test tracks stay closed until then
            **({"targets": list(plan.data.targets)} if plan.data.targets else {}),
            "features": {name: list(info.feature(name).shape[1:]) for name in plan.data.features},
        },
        environment=facts,
        trials=searched.trials,
        confirmed=confirmation,
        final=final,
        search_seconds=searched.seconds,
        tags=plan.hashes,
        notes=(
            *warm_start_notes(plan.space, load_earlier(plan.folder)),
            *read_journal(plan.folder.journal).notes,
        ),
    )


def _as_record(plan: StudyPlan, objective: Objective, searched: SearchResult) -> StudyRecord:
    return _record(plan, objective, searched, (), None, {})


def _nothing_found(searched: SearchResult) -> Exception:
    from fmasearch.errors import StudyError

    reasons = sorted({trial.error or str(trial.state) for trial in searched.trials})
    early = f"; {searched.ended_early}" if searched.ended_early else ""
    return StudyError(f"search: no trial finished an epoch: {'; '.join(reasons[:3])}{early}")


def _print_outcome(console: Console, record: StudyRecord) -> None:
    assert record.final is not None
    test = record.final.test
    table = Table(title=f"test split, opened once: {test.num_tracks} tracks", title_justify="left", box=None)
    for heading in ("metric", "value", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, interval in test.intervals.items():
        table.add_row(name, f"{test.metrics[name]:.3f}", f"{interval.low:.3f} – {interval.high:.3f}")
    console.print(table)
    name = test.headline(record.objective)
    baseline = f" (without a model: {test.baseline[name]:.3f})" if name in test.baseline else ""
    console.print(
        f"test {name}: {test.metrics[name]:.3f}{baseline}, {_minutes(record.search_seconds)} of search, "
        f"{record.num_epochs} epochs",
        highlight=False,
        soft_wrap=True,
    )
    if sentence := earlier_tests_sentence(record.final):
        console.print(sentence, highlight=False, soft_wrap=True, markup=False)


def _minutes(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))
