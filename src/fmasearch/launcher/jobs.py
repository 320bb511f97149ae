"""A job on the head: what it needs is sent there once, then Ray's own job server runs it.

Below the head's home: `fmasearch/submit/<hash>/` holds working folders, `fmasearch/data/<hash>-<name>` files that were
uploaded, `fmasearch/runs/` and `fmasearch/results/` the studies.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fmasearch.errors import DataError, StudyError
from fmasearch.launcher.head import Head
from fmasearch.launcher.working_folder import WorkingFolder

HEAD_PREFIX = "head:"
BASE = "fmasearch"
DAYS_KEPT = 30
"""A working folder that nobody submits for so long is removed from the head; a job has a copy of its own."""

# The port of Ray's dashboard, unless the head's environment says otherwise; it listens on the loopback address alone.
_JOB_SERVER = 'export RAY_API_SERVER_ADDRESS="${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}"'
# `ray job stop` then interrupts the study, which can be resumed, and leaves it time to end.
_GENTLE_STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
_FIRST_LINE = re.compile(r"^(\S+): models of ", re.MULTILINE)
GOES_ON = 75
"""Exit code of following a job that has not ended (the system's code for "try again later")."""

# `ray job logs --follow` would do, but it ends with 0 whatever became of the job, and adds lines of its own.
_FOLLOW = """
import asyncio, logging, os, sys
logging.disable(logging.INFO)
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"])
async def follow():
    async for text in client.tail_job_logs({job!r}):
        print(text, end="", flush=True)
try:
    asyncio.run(asyncio.wait_for(follow(), {seconds}))
except (TimeoutError, RuntimeError):
    pass
info = client.get_job_info({job!r})
if info.status.value == "FAILED" and info.driver_exit_code is None:
    print(info.message)
code = {{"SUCCEEDED": 0, "STOPPED": 130, "FAILED": info.driver_exit_code or 1}}.get(info.status.value, {goes_on})
sys.exit(code if 0 <= code < 256 else 1)
"""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of this machine that a job reads; its name on the head says what is in it."""

    source: Path
    sha256: str

    @property
    def target(self) -> str:
        """Below the head's home."""
        return f"{BASE}/data/{self.sha256[:16]}-{_plain(self.source.name)}"

    @property
    def num_bytes(self) -> int:
        return self.source.stat().st_size


@dataclass(frozen=True, slots=True)
class HeadState:
    """What the head has already. `sizes`: bytes by path below its home."""

    home: str
    sizes: Mapping[str, int]

    def has_folder(self, folder: WorkingFolder) -> bool:
        return _marker(folder) in self.sizes

    def has(self, upload: Upload) -> bool:
        return self.sizes.get(upload.target) == upload.num_bytes

    def path(self, below_home: str) -> str:
        return f"{self.home}/{below_home}"


@dataclass(frozen=True, slots=True)
class Job:
    """A command of fmasearch to be run by the head's job server, in a copy of a working folder on every node."""

    submission_id: str
    arguments: Sequence[str]
    folder: WorkingFolder
    environment: Mapping[str, str] = field(default_factory=dict)


def new_submission_id(words: Sequence[str], now: datetime.datetime) -> str:
    """A name that a person can read, such as `tune-cnn_lstm-20261121-060512`."""
    return "-".join([*(_plain(word) for word in words), now.strftime("%Y%m%d-%H%M%S")])


def probe(head: Head, folder: WorkingFolder, uploads: Sequence[Upload]) -> HeadState:
    """Make the folders of the head, see what is there already, and remove working folders that are out of use."""
    wanted = shlex.join([_marker(folder), *(upload.target for upload in uploads)])
    made = " ".join(f"{BASE}/{name}" for name in ("submit", "data", "runs", "results"))
    # A folder goes with its mark, the mark first: one that stayed would tell of files that are gone.
    old = f"find {BASE}/submit -mindepth 1 -maxdepth 1 -type d -mtime +{DAYS_KEPT}"
    done = head.run(
        f'cd "$HOME" && mkdir -p {made} && printf "%s\\n" "$PWD" && touch -c {_target(folder)} && '
        f"{old} -exec rm -f {{}}.complete ';' -exec rm -rf {{}} ';' && "
        f'for file in {wanted}; do if [ -f "$file" ]; then stat -c "%s %n" "$file"; fi; done'
    )
    _require_success(head, done.exit_code, done.output, "could not make ~/fmasearch")
    home, *lines = done.output.splitlines()
    return HeadState(home, {name: int(size) for size, name in (line.split(" ", 1) for line in lines)})


def send_folder(head: Head, folder: WorkingFolder) -> None:
    """Send a working folder; it counts as sent once every file of it is there.

    Raises:
        StudyError: if some did not arrive.
    """
    target, marker = _target(folder), _marker(folder)
    with folder.staged() as staged:
        head.send(staged, target)
    wanted = f"{len(folder.sizes)} {folder.num_bytes}"
    count = r"""find . -type f -printf '%s\n' | awk '{ bytes += $1 } END { print NR, bytes + 0 }'"""
    done = head.run(
        f'cd "$HOME"/{target} && found="$({count})" && if [ "$found" = "{wanted}" ]; '
        f'then touch "$HOME"/{marker}; else echo "$found"; exit 1; fi'
    )
    if done.exit_code != 0:
        raise StudyError(
            f"{head.cluster}: expected {wanted.replace(' ', ' files and ')} bytes of {folder.root} on the head, got "
            f"{done.output.strip() or 'none'}; rsync_exclude and rsync_filter in the cluster file hold files back"
        )


def send_upload(head: Head, upload: Upload, on_progress: Callable[[int], object]) -> None:
    """Send a file; rsync gives it its name when it is complete.

    Raises:
        DataError: if it did not arrive.
    """
    head.send(upload.source, upload.target, on_progress)
    done = head.run(f'stat -c %s "$HOME"/{upload.target}')
    if done.output.strip() != str(upload.num_bytes):
        raise DataError(
            f"{upload.source}: expected {upload.num_bytes:,} bytes at ~/{upload.target} on the head, got "
            f"{done.output.strip()!r}; rsync_exclude and rsync_filter in {head.cluster} hold it back"
        )


def start_job(head: Head, state: HeadState, job: Job) -> None:
    """Hand a job to the head's job server.

    Raises:
        StudyError: if it does not take it.
    """
    folder = state.path(_target(job.folder))
    runtime_env: dict[str, object] = {"env_vars": {**_GENTLE_STOP, **job.environment}}
    if job.folder.has_package:
        runtime_env["py_modules"] = [f"{folder}/src/fmasearch"]
    submit = ["ray", "job", "submit", "--no-wait", "--submission-id", job.submission_id, "--working-dir", folder]
    submit += ["--runtime-env-json", json.dumps(runtime_env), "--", "python", "-m", "fmasearch", *job.arguments]
    # What was collected is all wanted: files that git tracks although .gitignore names them too.
    done = head.run(f"{_JOB_SERVER} RAY_RUNTIME_ENV_IGNORE_GITIGNORE=1 && {shlex.join(submit)}")
    _require_success(head, done.exit_code, done.output, "Ray's job server did not take the job")


def follow_command(submission_id: str, *, seconds: int | None = None) -> str:
    """The command on the head that prints a job's output from its beginning, for `seconds` at most.

    It ends as the job did: with the exit code of its command, 1 if that never ran, 130 if the job was stopped,
    `GOES_ON` if it has not ended.
    """
    code = _FOLLOW.format(job=submission_id, seconds=seconds, goes_on=GOES_ON).strip()
    return f"{_JOB_SERVER} && python -c {shlex.quote(code)}"


def study_in(log: str) -> str | None:
    """The name of the study that `tune` prints when it starts one; None if it has not yet."""
    found = _FIRST_LINE.search(log)
    return found[1] if found else None


def head_path(given: str, home: str) -> str:
    """`head:PATH` as an absolute path: PATH as it is, below the home (`~/...`), or else below `~/fmasearch`."""
    path = given.removeprefix(HEAD_PREFIX)
    if path.startswith("~/"):
        return f"{home}/{path[2:]}"
    return path if path.startswith("/") else f"{home}/{BASE}/{path}"


def _target(folder: WorkingFolder) -> str:
    return f"{BASE}/submit/{folder.digest}"


def _marker(folder: WorkingFolder) -> str:
    """Beside the folder: it is not part of what travels on to the workers."""
    return f"{_target(folder)}.complete"


def _plain(name: str) -> str:
    """A name without characters that a shell, or rsync's, minds."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _require_success(head: Head, exit_code: int, output: str, what: str) -> None:
    if exit_code == 0:
        return
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    raise StudyError(
        f"{head.cluster}: {what} (exit code {exit_code}): {' | '.join(lines[-4:]) or 'no output'}; "
        f"`ray exec {shlex.quote(str(head.cluster))} 'ray status'` tells how the cluster is"
    )
