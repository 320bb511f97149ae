"""`make test-cluster`: a study over three hosts, by the real launcher, with one lost and one added on the way.

Root on Linux; elsewhere it says why not and ends with 0. Prints a table of what was checked, and ends with 1 if
anything was not as it should be. Hosts are namespaces (see `hosts.py`), so nothing of it outlives the script.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import hosts
from evidence import StudyFiles, search_seconds, sha256_of
from hosts import SHARED, Host, ssh_to
from laptop import Laptop, install_beforehand, open_laptop, write_cluster_file
from table import Table

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

ALONE = Path("/var/tmp/alone")
"""Where the study on one machine works: outside the project, whose folder travels."""

LOG_MONITOR = "log_monitor.py"

NUM_TRIALS, NUM_EPOCHS = 9, 8
NUM_TRIALS_OF_LONG, NUM_EPOCHS_OF_LONG = 30, 20

SPACE = """\
features: [mel]
task: {classification: genre}
model: {architecture: cnn_gru, hidden_dim: 8, rnn_dim: 8, num_conv_layers: 1, num_layers: 1, dropout: 0.2}
optimizer: {learning_rate: {float: [1.0e-4, 1.0e-2], log: true}}
trainer: {batch_size: 16}
"""
SEARCH = """\
sampler: {name: random}    # what a trial tries must not depend on which trials ended before it
scheduler: {name: none}
patience: null
checkpoint_seconds: 0      # after every epoch
confirm: {top_k: 1, seeds: 1}
resources: {cpu: 1, gpu: 0}
"""


@dataclass
class Cluster:
    """The machines, and the person at the laptop."""

    laptop: Laptop
    head: Host
    workers: tuple[Host, ...]
    spare: Host
    """Listed in the cluster file, and switched off at first."""
    data: Path

    @property
    def first(self) -> tuple[Host, ...]:
        return (self.head, *self.workers)

    def studies(self) -> set[str]:
        return {plan.parent.name for plan in self.head.path("~/fmasearch/runs").glob("*/study.yaml")}

    def study(self, name: str) -> StudyFiles:
        return StudyFiles(self.head.path("~/fmasearch/runs") / name)

    def tune(self, *options: str, detach: bool = False) -> tuple[str, StudyFiles]:
        """Submit a study; returns what was printed, and where the study is."""
        before = self.studies()
        words = ("tune", "spaces/lab.yaml", "--search=search/lab.yaml", f"--data={self.data}", *options)
        said = self.laptop.submit(*words, detach=detach, timeout=300)
        (name,) = self.studies() - before
        return said, self.study(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="show all that the commands say")
    verbose = parser.parse_args().verbose
    if not hosts.inside() and (reason := hosts.reason_not_to_run()):
        print(f"test-cluster: skipped: {reason}")
        return 0
    hosts.enter_laboratory(CHECKOUT)  # from here on, this is the first process of namespaces of its own
    table = Table()
    try:
        run(table, verbose=verbose)
    except KeyboardInterrupt:
        table.print()
        print("interrupted")
        return 130
    table.print()
    return 0 if table.all_well else 1


def run(table: Table, *, verbose: bool) -> None:
    with table.stage("make three hosts, and a feature file on the laptop"):
        cluster = make_cluster(verbose=verbose)
        seen = {line.split(":")[0] for host in cluster.first for line in host.processes()}
        table.check("hosts see their own processes: sshd alone", {"sshd"}, seen)
    if not table.all_well:
        return
    alone = StudyFiles(ALONE)
    with table.stage("the study on one machine"):
        alone = study_alone(cluster)
    with table.stage("ray up"):
        bring_up(cluster, table)
    with table.stage("doctor"):
        said = cluster.laptop.submit("doctor", "--cluster", check=False)
        named = [host.address for host in cluster.first if host.address in said]
        table.check("doctor --cluster speaks of every host", [host.address for host in cluster.first], named)
    with table.stage("the study on three hosts"):
        check_three(cluster, table, alone)
    with table.stage("a second study; a host is switched on and another lost"):
        check_loss(cluster, table)
    with table.stage("a third study, stopped from outside"):
        check_stop(cluster, table)
    with table.stage("ray down"):
        check_down(cluster, table)


def make_cluster(*, verbose: bool) -> Cluster:
    from conftest import make_feature_file

    laptop = open_laptop(CHECKOUT, verbose=verbose)
    install_beforehand(CHECKOUT)
    (laptop.project / "spaces" / "lab.yaml").write_text(SPACE, encoding="utf-8")
    (laptop.project / "search" / "lab.yaml").write_text(SEARCH, encoding="utf-8")
    # Most of its 20 MB are test tracks: they are worth sending, and cost no time in training.
    data = make_feature_file(Path.home() / "lab.h5", tracks=(120, 40, 240), num_frames=200, num_bins=128, contrast=1.0)
    names = ("head", "one", "two", "spare")
    machines = [Host(name, f"10.77.0.{11 + number}") for number, name in enumerate(names)]
    write_cluster_file(laptop, CHECKOUT, machines)
    head, one, two, spare = machines
    for host in (head, one, two):
        host.start()
    return Cluster(laptop, head, (one, two), spare, data)


def study_alone(cluster: Cluster) -> StudyFiles:
    """The study without a cluster, on one core of the laptop."""
    cluster.laptop.run(
        *("taskset", "--cpu-list", "0", sys.executable, "-m", "fmasearch", "tune", "spaces/lab.yaml"),
        *("--search=search/lab.yaml", f"--data={cluster.data}", *_size(NUM_TRIALS, NUM_EPOCHS)),
        *(f"--runs={ALONE / 'runs'}", f"--results={ALONE / 'results'}"),
    )
    (plan,) = (ALONE / "runs").glob("*/study.yaml")
    return StudyFiles(plan.parent)


def bring_up(cluster: Cluster, table: Table) -> None:
    started = time.monotonic()
    cluster.laptop.run("ray", "up", "-y", cluster.laptop.cluster_file.name)
    said = _wait_until(lambda: _status_with(cluster, "/3.0 CPU"), seconds=120)
    table.check(
        "ray up: all three come up; `ray status` works with the token",
        "3.0 CPU within 120 s",
        f"{'3.0 CPU' if said else 'not all'} after {time.monotonic() - started:.0f} s",
        bool(said),
    )
    tokens = {_token(host.path("~/.ray/auth_token")) for host in cluster.first} | {
        _token(Path.home() / ".ray/auth_token")
    }
    table.check("one token on the laptop and all hosts", 1, len(tokens))
    denied = cluster.laptop.on_head("RAY_AUTH_MODE=disabled ray status", check=False)
    table.check("without the token", "refused", "refused" if "/3.0 CPU" not in denied else "let in")


def check_three(cluster: Cluster, table: Table, alone: StudyFiles) -> None:
    size = cluster.data.stat().st_size
    said, study = cluster.tune(*_size(NUM_TRIALS, NUM_EPOCHS))
    trained = dict(sorted(study.epochs_by_node.items()))
    table.check("epochs were trained on", "every host", trained, len(trained) == len(cluster.first))
    table.check(
        "the user is told at the start that there is no storage", "starts again from its first epoch", *_told(said)
    )
    uploads = list(cluster.head.path("~/fmasearch/data").glob("*.h5"))
    table.check("the file is on the head once, bytes", [size], [file.stat().st_size for file in uploads])
    received = {address: entry["bytes_received"] for address, entry in study.received.items()}
    table.check("data sent to each other host, bytes", {host.address: size for host in cluster.workers}, received)
    hashes = [
        sha256_of(host.path(study.received[host.address]["file"])) == sha256_of(cluster.data)
        for host in cluster.workers
        if host.address in study.received
    ]
    table.check("their copies, on a disk of their own, have the hash", [True, True], hashes)
    table.check("trials, as on one machine", len(alone.states), len(study.states))
    table.check("states of the trials, as on one machine", alone.states, study.states)
    table.check("learning curves, as on one machine", "equal", _compared(alone.curves, study.curves))
    check_fetch(cluster, table, study)
    here = cluster.laptop.project
    for words, slots, of, home in (("1 host", 1, alone, ALONE), ("3 hosts", 3, study, here)):
        search = search_seconds(home / "results" / of.root.name)
        spent = (search * slots - of.training_seconds) / len(of.states)
        inside = sum(r["seconds"] for r in of.finished.values()) - of.training_seconds
        table.check(
            f"time per trial that is not training, {words}",
            "stated",
            f"{spent:.2f} s of a slot: {search:.1f} s of search x {slots} slots - {of.training_seconds:.1f} s of "
            f"training; workers' start and the data's way count; {inside / len(of.states):.2f} s of it within trials",
            True,
        )


def check_fetch(cluster: Cluster, table: Table, study: StudyFiles) -> None:
    name = study.root.name
    project = cluster.laptop.project
    cluster.laptop.fmasearch("fetch", cluster.laptop.cluster_file.name, name)
    wanted = [f"results/{name}/README.md", f"results/{name}/study.yaml", f"runs/{name}/model.pt"]
    table.check("fetch brings home", wanted, [file for file in wanted if (project / file).is_file()])


def check_loss(cluster: Cluster, table: Table) -> None:
    lost = cluster.workers[1]
    storage = f"--storage={SHARED / 'checkpoints'}"
    said, study = cluster.tune(*_size(NUM_TRIALS_OF_LONG, NUM_EPOCHS_OF_LONG), storage, detach=True)
    name = study.root.name
    ways = ["watch", "status", "stop", "fetch"]
    table.check("submit --detach says how to come back", ways, [way for way in ways if f"\n{way}" in said])

    cluster.spare.start()
    switched_on = time.monotonic()
    _wait_until(lambda: study.started, seconds=60)
    status = cluster.laptop.submit("status", name)
    table.check("status from outside", f"{name} search", " ".join(status.split("\n")[0].split()[:2]))
    joined = _wait_until(lambda: cluster.spare.address in study.epochs_by_node, seconds=240)
    table.check(
        "a host that is switched on trains, in a study that runs",
        "within 240 s",
        f"after {time.monotonic() - switched_on:.0f} s" if joined else "not at all",
        bool(joined),
    )

    trial = _wait_until(lambda: _in_the_middle(study, lost.address), seconds=60)
    if trial is None:
        raise TimeoutError(f"no trial got to its middle on {lost.address}: {dict(study.epochs_by_node)}")
    lost.lose()
    record = cluster.head.path("~/fmasearch/results") / name / "README.md"
    done = _wait_until(record.exists, seconds=400)
    table.check("a host is lost: the study ends with a record", "finished", _ending(study) if done else "no record")
    everywhere = {host.address for host in (*cluster.first, cluster.spare)}
    table.check("epochs were trained on all of them", sorted(everywhere), sorted(study.epochs_by_node))
    asked = {f"t{number:04d}" for number in range(NUM_TRIALS_OF_LONG)}
    table.check("trials accounted for", len(asked), len(asked & set(study.finished)))
    table.check("their states", {"completed"}, set(study.states.values()))
    moved = len({epoch.node for epoch in study.epochs_told if epoch.trial == trial}) > 1
    table.check(
        f"{trial}, which ran on the lost host: epochs trained again",
        "at most 1, elsewhere",
        f"{study.repeated(trial)} ({study.course(trial)})",
        study.repeated(trial) <= 1 and moved,
    )
    others = {name: study.repeated(name) for name in study.finished if study.repeated(name) and name != trial}
    table.check("epochs of other trials trained again", {}, others)
    expected = {cluster.workers[0].address: 0, lost.address: 0, cluster.spare.address: cluster.data.stat().st_size}
    received = {address: entry["bytes_received"] for address, entry in study.received.items()}
    table.check("bytes sent: only to the host that is new", expected, received)


def check_stop(cluster: Cluster, table: Table) -> None:
    _, study = cluster.tune(*_size(50, 1000), detach=True)  # trials that nobody waits for
    name = study.root.name
    _wait_until(lambda: study.epochs_told, seconds=60)
    running = sorted(study.started)[0]
    cluster.laptop.submit("stop", name, running)
    state = _wait_until(lambda: study.states.get(running), seconds=60)
    table.check(f"stop STUDY {running} from outside: state of the trial", "pruned", state)
    cluster.laptop.submit("stop", name)
    _wait_until(lambda: _ending(study) != "running", seconds=60)
    table.check("stop STUDY from outside: the study", "interrupted", _ending(study))


def check_down(cluster: Cluster, table: Table) -> None:
    alive = (cluster.head, cluster.workers[0], cluster.spare)
    started = time.monotonic()
    cluster.laptop.run("ray", "down", "-y", cluster.laptop.cluster_file.name)
    _wait_until(lambda: not _ray_processes(alive, but=LOG_MONITOR), seconds=120)
    table.check(
        "ray down: processes of Ray that are left",
        "none after 120 s, log monitors aside",
        f"{', '.join(_ray_processes(alive, but=LOG_MONITOR)) or 'none'} after {time.monotonic() - started:.0f} s",
        not _ray_processes(alive, but=LOG_MONITOR),
    )
    # The launcher stops Ray on the head alone. Workers notice within a minute, but ray 2.60 forgets this process there.
    forgotten = _ray_processes(alive)
    table.check("ray down: log monitors that are left on workers", "stated", len(forgotten), True)
    for host in alive[1:]:
        cluster.laptop.run(*ssh_to(host, ". ~/.bashrc; ray stop"))
    table.check("`ray stop` on each worker ends them", "none", ", ".join(_ray_processes(alive)) or "none")


def _size(trials: int, epochs: int) -> tuple[str, str]:
    return f"--trials={trials}", f"--max-epochs={epochs}"


def _told(said: str) -> tuple[str, bool]:
    """What the start of a study said of checkpoints; whether that came before its first trial ended."""
    line = next((line.strip() for line in said.splitlines() if line.startswith("checkpoints:")), "nothing")
    before_results = said.find("checkpoints:") < max(said.find("search lab"), said.find("confirm"))
    return line[:120], "starts again from its first epoch" in said and before_results


def _compared(one: dict[str, list[tuple[int, float]]], other: dict[str, list[tuple[int, float]]]) -> str:
    differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return f"different: {', '.join(differing)}" if differing else "equal"


def _in_the_middle(study: StudyFiles, address: str) -> str | None:
    """A trial that the host at `address` trains, and has trained for a while, and that will take a while yet."""
    last = {epoch.trial: epoch for epoch in study.epochs_told}
    return next((e.trial for e in last.values() if e.node == address and 3 <= e.epoch <= NUM_EPOCHS_OF_LONG - 4), None)


def _ending(study: StudyFiles) -> str:
    """How the search ended, or that it has not."""
    last = (study.events or [{}])[-1]
    return str(last["status"]) if last.get("event") == "close" else "running"


def _status_with(cluster: Cluster, words: str) -> str | None:
    said = cluster.laptop.on_head("ray status", check=False, timeout=60)
    return said if words in said else None


def _token(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else f"none at {file}"


def _ray_processes(on: Sequence[Host], *, but: str | None = None) -> list[str]:
    """Processes of Ray and of trials, in words; those that contain `but` do not count."""
    words = ("raylet", "gcs_server", "ray::", "site-packages/ray/", "fmasearch tune")
    lines = [(host.name, line) for host in on for line in host.processes()]
    return [
        f"{name}: {line[-60:]}"
        for name, line in lines
        if any(word in line for word in words) and (but is None or but not in line)
    ]


def _wait_until(look: Callable[[], T], seconds: float) -> T | None:
    """What `look` returns once that is something; None if it is nothing for so long."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            return None
        time.sleep(0.5)
    return found


if __name__ == "__main__":
    sys.exit(main())
