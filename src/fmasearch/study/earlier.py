"""The earlier studies of a warm start, and the file that keeps them for when the new study is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from fmasearch.errors import StudyError
from fmasearch.files import replacing
from fmasearch.records import StudyRecord, TrialState
from fmasearch.searcher import EarlierStudy, require_some
from fmasearch.study.folder import StudyFolder, StudyPlan
from fmasearch.tasks import study_objective


def earlier_study(record: StudyRecord, plan: StudyPlan) -> EarlierStudy:
    """A recorded study as far as the study of `plan` can learn from it.

    Raises:
        StudyError: if it searched for another metric, by which its trials cannot be ranked for this one.
        SpaceError: if none of its trials lies in the plan's space.
    """
    objective = study_objective(plan.space.inputs()[1])
    if record.objective != objective:
        raise StudyError(
            f"--warm-start {record.name}: searched for {record.objective.metric} ({record.objective.mode}); expected "
            f"{objective.metric} ({objective.mode}), as in this study: its trials cannot be ranked by it"
        )
    useful = (TrialState.COMPLETED, TrialState.PRUNED)
    study = EarlierStudy(
        name=record.name,
        trials=tuple(trial for trial in record.trials if trial.state in useful and trial.epochs),
        comparable=(
            _data(record.tags) == _data(plan.hashes) and record.search.get("max_epochs") == plan.search.max_epochs
        ),
    )
    require_some(plan.space, study)
    return study


def save_earlier(folder: StudyFolder, studies: Sequence[EarlierStudy]) -> None:
    """Keep what a study was started with: the other folders may change or go."""
    with replacing(folder.earlier) as temporary:
        temporary.write_text(json.dumps([study.to_json() for study in studies]), encoding="utf-8")


def load_earlier(folder: StudyFolder) -> tuple[EarlierStudy, ...]:
    """What `save_earlier` kept; nothing for a study without a warm start."""
    if not folder.earlier.exists():
        return ()
    return tuple(EarlierStudy.from_json(each) for each in json.loads(folder.earlier.read_text(encoding="utf-8")))


def _data(hashes: Mapping[str, str]) -> tuple[str | None, str | None]:
    """What values depend on besides configuration and horizon: the file, and what was made of its classes."""
    return hashes.get("fmasearch.data_hash"), hashes.get("fmasearch.genres_hash")
