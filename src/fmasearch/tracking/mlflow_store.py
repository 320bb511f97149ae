"""MLflow's store: created before use, spoken to quietly, and an experiment opened in it."""

from __future__ import annotations

import fcntl
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError  # what sqlite says passes through MLflow unchanged

from fmasearch.errors import StudyError
from fmasearch.tracking.locations import artifact_folder, database_file

TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's page opens on training runs, not on its GenAI side."""


def init_store(uri: str) -> MlflowClient:
    """A client of the store at `uri`; a new sqlite file gets its schema first, which takes 1 to 5 s once.

    The journal mode of the file stays sqlite's own. Write-ahead logging takes 31-37 ms a trial instead of 39
    (60 trials, 30 params, 216 metric values, 2 cores), too little to lose file systems that cannot map it.

    Raises:
        StudyError: if the store cannot be opened, such as one that another version of MLflow wrote.
    """
    file = database_file(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with quiet(), _one_at_a_time(file):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
            return client
    except (MlflowException, SQLAlchemyError) as error:
        raise StudyError(f"{uri}: MLflow cannot open this store: {_first_line(error)}") from None


def open_experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment `name`, created if absent; a sqlite store keeps artifacts beside its file.

    Raises:
        StudyError: if an experiment of that name lies in MLflow's bin.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = artifact_folder(client.tracking_uri)
        location = None if folder is None else (folder / name).as_uri()
        return str(client.create_experiment(name, artifact_location=location, tags=TRAINING_VIEW))
    if experiment.lifecycle_stage == "deleted":
        raise StudyError(
            f"MLflow's experiment {name!r} was deleted; bring it back with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`, or choose another name"
        )
    return str(experiment.experiment_id)


def newest_page(uri: str, port: int) -> str:
    """The page of the newest experiment on a server at `port`, on MLflow's model-training side."""
    newest = init_store(uri).search_experiments(max_results=1, order_by=["creation_time DESC"])
    page = f"experiments/{newest[0].experiment_id}/runs" if newest else "experiments"
    return f"http://127.0.0.1:{port}/#/{page}?workflowType=machine_learning"


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back MLflow's remarks on schema creation and its dependencies' deprecations, then restore all."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _one_at_a_time(file: Path | None) -> Iterator[None]:
    """Serialise schema creation: of several processes that open a new file at once, all but one crash."""
    if file is None:
        yield
        return
    folder = os.open(file.parent, os.O_RDONLY)  # locking the folder leaves no lock file behind
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
