"""The arguments of a `tune` that is to run on a cluster: checked here, with this machine's files on their way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from fmasearch.cli.app import app
from fmasearch.data import content_hash, read_info
from fmasearch.data.cache import default_cache_dir
from fmasearch.errors import ConfigError
from fmasearch.launcher import HEAD_PREFIX, HeadState, Upload, WorkingFolder, head_path


@dataclass(frozen=True)
class TuneArguments:
    """The arguments of a `tune` that is to run elsewhere, as they were typed, by parameter."""

    given: Mapping[str, Any]
    uploads: Mapping[str, Upload] = field(default_factory=dict)

    def words(self, state: HeadState) -> list[str]:
        """As the head's shell shall see them."""
        given = dict(self.given)
        given.pop("mlflow", None)  # travels as a variable: a URI may hold a password, and commands are recorded
        for name, upload in self.uploads.items():
            given[name] = state.path(upload.target)
        for name in ("data", "init_from"):
            if str(given.get(name, "")).startswith(HEAD_PREFIX):
                given[name] = head_path(given[name], state.home)
        given |= {name: state.path(f"fmasearch/{name}") for name in ("runs", "results")}
        return _as_words(given)

    @property
    def environment(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.given["mlflow"]} if "mlflow" in self.given else {}


def read_arguments(words: Sequence[str], folder: WorkingFolder) -> TuneArguments:
    """Check `tune`'s arguments for a submission: what is read here is there, what is written is the head's.

    Raises:
        UserError: for the first argument that cannot be used.
    """
    given = _parse(words)
    for name in ("runs", "results"):
        if name in given:
            raise ConfigError(
                f"--{name}: a cluster keeps its studies in ~/fmasearch/{name} on the head, where status, watch, stop "
                f"and fetch find them; leave it out (`fetch` takes --runs and --out for this machine)"
            )
    storage = given.get("storage")
    if storage is not None and "://" not in storage and not storage.startswith("/"):
        raise ConfigError(f"--storage: expected an absolute path on the cluster, s3:// or gs:// URI, got {storage!r}")
    if "resume" in given:
        return TuneArguments(given)
    if "space" not in given or "data" not in given:
        raise ConfigError(
            "tune: expected a space and a feature file, as in "
            "`fmasearch submit cluster.yaml -- tune spaces/cnn_gru.yaml --data fma.h5`"
        )
    for name in ("space", "search"):
        if name in given:
            given[name] = _inside(given[name], folder)
    uploads = {}
    if _is_local(given["data"]):
        read_info(given["data"])  # before it is sent
        uploads["data"] = _upload(given["data"])
    if "init_from" in given and _is_local(given["init_from"]):
        if not Path(given["init_from"]).is_file():
            raise ConfigError(
                f"--init-from: expected a model file here, or head:PATH of one on the cluster's head, "
                f"got {given['init_from']}"
            )
        uploads["init_from"] = _upload(given["init_from"])
    return TuneArguments(given, uploads)


def _parse(words: Sequence[str]) -> dict[str, Any]:
    """Raw values by parameter, as `tune` itself would split the words; a `Path` would spoil a URI."""
    command = _tune_command()
    context = command.context_class(command, info_name="tune")
    given, rest, _ = command.make_parser(context).parse_args(args=list(words))
    if rest:
        raise ConfigError(f"tune: unexpected argument {rest[0]!r}; expected one space and options")
    return {name: value for name, value in given.items() if isinstance(value, str | list | bool)}


def _as_words(given: Mapping[str, Any]) -> list[str]:
    """The inverse of `_parse`."""
    words = []
    for parameter in _tune_command().params:
        value = given.get(parameter.name)
        if value is None or value is False:
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
            continue
        option = max(parameter.opts, key=len)
        if value is True:
            words.append(option)
            continue
        words.extend(f"{option}={one}" for one in (value if isinstance(value, list) else [value]))
    return words


def _tune_command() -> Any:
    commands: Any = typer.main.get_command(app)
    return commands.commands["tune"]


def _is_local(given: str) -> bool:
    return "://" not in given and not given.startswith(HEAD_PREFIX)


def _upload(given: str) -> Upload:
    path = Path(given).expanduser()
    return Upload(path.resolve(), content_hash(path, memo=default_cache_dir() / "hashes.json"))


def _inside(given: str, folder: WorkingFolder) -> str:
    """A file's path in the working folder."""
    path = Path(given)
    if not path.is_file():
        raise ConfigError(f"{given}: cannot be read: no such file")
    absolute = path.parent.resolve() / path.name
    if not absolute.is_relative_to(folder.root):
        raise ConfigError(
            f"{given}: expected a file inside {folder.root}, the folder that travels to the cluster; "
            f"copy it there, or submit from the folder that holds it"
        )
    name = absolute.relative_to(folder.root).as_posix()
    if name not in folder.sizes:
        raise ConfigError(
            f"{given}: does not travel to the cluster: .gitignore names it, or it lies in data/, results/ or runs/; "
            f"move it, for example to spaces/"
        )
    return name
