"""MLflow's store: created before use, spoken to quietly, and an experiment opened in it.

It is a sqlite file, a PostgreSQL database that the driver writes into, or a server.
"""

from __future__ import annotations

import fcntl
import logging
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.version import VERSION
from sqlalchemy.exc import SQLAlchemyError  # what a database says passes through MLflow unchanged
from sqlalchemy.pool import NullPool

from fmasearch.errors import StudyError
from fmasearch.tracking.locations import (
    artifact_folder,
    database_file,
    is_postgres,
    is_server,
    redacted,
    with_driver,
)

TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's page opens on training runs, not on its GenAI side."""

SCHEMA_LOCK = 5_064_312_902_117
"""Names the advisory lock that is held while a PostgreSQL database gets its schema. Any number, always the same."""
_CONNECT_SECONDS = 10


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
    address = with_driver(uri)
    if is_server(uri):
        _require_server(uri)
    try:
        with quiet(), _one_at_a_time(address):
            client = MlflowClient(tracking_uri=address)
            client.search_experiments(max_results=1)
            return client
    except (MlflowException, SQLAlchemyError, ModuleNotFoundError) as error:
        raise StudyError(f"{redacted(uri)}: MLflow cannot open this store: {_first_line(error)}") from None


def describe_store(uri: str) -> str:
    """What is at `uri`, in words; nothing is created.

    Raises:
        StudyError: if it cannot be opened, or could not be created.
    """
    file = database_file(uri)
    if file is not None and not file.exists():
        home = next(folder for folder in file.parents if folder.exists())
        if not os.access(home, os.W_OK):
            raise StudyError(f"{file}: cannot be created: {home} may not be written; name another folder with --runs")
        return f"{file}: none yet; the first study makes it"
    if is_postgres(uri) and not _has_schema(with_driver(uri), uri):
        return f"{redacted(uri)}: an empty database; the first study makes the tables"
    client = init_store(uri)
    with quiet():
        count = len(client.search_experiments(max_results=1000))
    server = f", MLflow {_server_version(uri)} (here {VERSION})" if is_server(uri) else ""
    return f"{file or redacted(uri)}: {count} experiment{'' if count == 1 else 's'}{server}"


def open_experiment(client: MlflowClient, name: str, *, runs: Path | None = None) -> str:
    """The id of the experiment `name`, created if absent; a sqlite store keeps artifacts beside its file.

    Args:
        runs: the studies' folder, where artifacts lie if the store is a database.

    Raises:
        StudyError: if an experiment of that name lies in MLflow's bin, or keeps its artifacts out of reach.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = artifact_folder(client.tracking_uri, runs)
        location = None if folder is None else (folder / name).as_uri()
        return str(client.create_experiment(name, artifact_location=location, tags=TRAINING_VIEW))
    if experiment.lifecycle_stage == "deleted":
        raise StudyError(
            f"MLflow's experiment {name!r} was deleted; bring it back with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`, or choose another name"
        )
    _require_reach(client.tracking_uri, name, experiment.artifact_location)
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
def _one_at_a_time(address: str) -> Iterator[None]:
    """Serialise schema creation: of several processes that open a new store at once, all but one crash."""
    if is_postgres(address):
        with _connected(address) as connection:  # first of all: MLflow itself tries for two minutes to connect
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": SCHEMA_LOCK})
            yield  # the lock ends with its connection
        return
    file = database_file(address)
    if file is None:
        yield
        return
    folder = os.open(file.parent, os.O_RDONLY)  # locking the folder leaves no lock file behind
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _has_schema(address: str, uri: str) -> bool:
    try:
        with _connected(address) as connection:
            return bool(sqlalchemy.inspect(connection).has_table("alembic_version"))
    except SQLAlchemyError as error:
        raise StudyError(f"{redacted(uri)}: {_first_line(error)}") from None


@contextmanager
def _connected(address: str) -> Iterator[sqlalchemy.Connection]:
    url = sqlalchemy.make_url(address)
    if "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(_CONNECT_SECONDS)})
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def _require_server(uri: str) -> None:
    """MLflow itself tries for minutes to reach a server that is not there."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_CONNECT_SECONDS).close()
    except urllib.error.HTTPError as answer:  # something answers; what it wants, MLflow finds out
        answer.close()
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{redacted(uri)}: no MLflow server answers there ({getattr(error, 'reason', error)}); on its machine: "
            f"fmasearch ui --serve; to reach a cluster's: ray attach -p 5000 cluster.yaml"
        ) from None


def _server_version(uri: str) -> str:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=_CONNECT_SECONDS) as answer:
            return str(answer.read(40).decode(errors="replace")).strip()
    except (OSError, ValueError):
        return "of unknown version"


def _require_reach(uri: str, name: str, location: str) -> None:
    """An experiment that a study made in the server's own file keeps artifacts in a folder of the server's machine."""
    folder = Path(unquote(urlsplit(location).path)).parent
    if is_server(uri) and location.startswith(("file:", "/")) and not folder.is_dir():
        raise StudyError(
            f"MLflow's experiment {name!r} keeps its artifacts in {folder}, on the server's machine; run the study "
            f"there (`fmasearch submit`), or rename the space's file: its name is the experiment's"
        )


def _first_line(error: Exception) -> str:
    return redacted(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__
