"""Studies over the hosts: as on one machine, with a host lost and another added on the way, stopped from outside."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from evidence import StudyFiles, search_seconds, sha256_of
from hosts import SHARED
from lab import ENDLESS, Cluster, size, wait_until
from outside import check_status, check_watched
from table import Table

ALONE = Path("/var/tmp/alone")
"""Where the study on one machine works: outside the project, whose folder travels."""

NUM_TRIALS, NUM_EPOCHS = 9, 8
NUM_TRIALS_OF_LONG, NUM_EPOCHS_OF_LONG = 30, 20


def study_alone(cluster: Cluster) -> StudyFiles:
    """The study without a cluster, on one core of the laptop."""
    cluster.laptop.run(
        *("taskset", "--cpu-list", "0", sys.executable, "-m", "fmasearch", "tune", "spaces/lab.yaml"),
        *("--search=search/lab.yaml", f"--data={cluster.data}", *size(NUM_TRIALS, NUM_EPOCHS)),
        *(f"--runs={ALONE / 'runs'}", f"--results={ALONE / 'results'}"),
    )
    (plan,) = (ALONE / "runs").glob("*/study.yaml")
    return StudyFiles(plan.parent)


def check_three(cluster: Cluster, table: Table, alone: StudyFiles) -> None:
    num_bytes = cluster.data.stat().st_size
    said, study = cluster.tune(trials=NUM_TRIALS, epochs=NUM_EPOCHS)
    cluster.finished.append(study)
    trained = dict(sorted(study.epochs_by_node.items()))
    table.check("epochs were trained on", "every host", trained, len(trained) == len(cluster.first))
    table.check(
        "the user is told at the start that there is no storage", "starts again from its first epoch", *_told(said)
    )
    uploads = list(cluster.head.path("~/fmasearch/data").glob("*.h5"))
    table.check("the file is on the head once, bytes", [num_bytes], [file.stat().st_size for file in uploads])
    received = {address: entry["bytes_received"] for address, entry in study.received.items()}
    table.check("data sent to each other host, bytes", {host.address: num_bytes for host in cluster.workers}, received)
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
    said, study = cluster.tune(trials=NUM_TRIALS_OF_LONG, epochs=NUM_EPOCHS_OF_LONG, options=(storage,), detach=True)
    name = study.root.name
    words = (sys.executable, "-m", "fmasearch", "submit", cluster.laptop.cluster_file.name, "--", "watch", name)
    watching = cluster.laptop.terminal(*words)
    ways = ["watch", "status", "stop", "fetch"]
    table.check("submit --detach says how to come back", ways, [way for way in ways if f"\n{way}" in said])

    cluster.spare.start()
    switched_on = time.monotonic()
    wait_until(lambda: study.started, seconds=60)
    check_status(cluster, table, study, NUM_TRIALS_OF_LONG)
    joined = wait_until(lambda: cluster.spare.address in study.epochs_by_node, seconds=240)
    table.check(
        "a host that is switched on trains, in a study that runs",
        "within 240 s",
        f"after {time.monotonic() - switched_on:.0f} s" if joined else "not at all",
        bool(joined),
    )

    trial = wait_until(lambda: _in_the_middle(study, lost.address, NUM_EPOCHS_OF_LONG - 4), seconds=60)
    if trial is None:
        raise TimeoutError(f"no trial got to its middle on {lost.address}: {dict(study.epochs_by_node)}")
    lost.lose()
    record = cluster.head.path("~/fmasearch/results") / name / "README.md"
    done = wait_until(record.exists, seconds=400)
    table.check("a host is lost: the study ends with a record", "finished", _ending(study) if done else "no record")
    check_watched(table, watching, NUM_TRIALS_OF_LONG)
    cluster.finished.append(study)
    everywhere = {host.address for host in (*cluster.first, cluster.spare)}
    table.check("epochs were trained on all of them", sorted(everywhere), sorted(study.epochs_by_node))
    table.check("trials that ended", NUM_TRIALS_OF_LONG, len(study.finished))
    table.check("trials that started and did not end", set(), study.started - study.finished.keys())
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


def check_stop(cluster: Cluster, table: Table, study: StudyFiles) -> None:
    """Of a study of one trial a host, without storage: lose a host, stop a trial to make room, stop the study."""
    name, lost = study.root.name, cluster.alive[-1]
    trial = wait_until(lambda: _in_the_middle(study, lost.address, ENDLESS - 100), seconds=120)
    if trial is None:
        raise TimeoutError(f"no trial got going on {lost.address}: {dict(study.epochs_by_node)}")
    lost.lose()
    other = sorted(study.started - study.finished.keys() - {trial})[0]
    cluster.laptop.submit("stop", name, other)
    state = wait_until(lambda: study.states.get(other), seconds=60)
    table.check(f"stop STUDY {other} from outside: state of the trial", "pruned", state)
    wait_until(lambda: len(study.first_epochs(trial)) > 1, seconds=180)
    nodes = study.first_epochs(trial)
    table.check(
        f"without storage: {trial}, which ran on a lost host",
        "starts again, elsewhere",
        study.course(trial),
        len(nodes) == 2 and nodes[0] == lost.address != nodes[1],
    )
    cluster.laptop.submit("stop", name)
    wait_until(lambda: _ending(study) != "running", seconds=60)
    table.check("stop STUDY from outside: the study", "interrupted", _ending(study))


def _told(said: str) -> tuple[str, bool]:
    """What the start of a study said of checkpoints; whether that came before its first trial ended."""
    line = next((line.strip() for line in said.splitlines() if line.startswith("checkpoints:")), "nothing")
    before_results = said.find("checkpoints:") < max(said.find("search lab"), said.find("confirm"))
    return line[:120], "starts again from its first epoch" in said and before_results


def _compared(one: dict[str, list[tuple[int, float]]], other: dict[str, list[tuple[int, float]]]) -> str:
    differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return f"different: {', '.join(differing)}" if differing else "equal"


def _in_the_middle(study: StudyFiles, address: str, last: int) -> str | None:
    """A trial that the host at `address` trains, and has trained for a while, up to epoch `last` at most."""
    newest = {epoch.trial: epoch for epoch in study.epochs_told}
    running = (epoch for epoch in newest.values() if epoch.trial not in study.finished)
    return next((epoch.trial for epoch in running if epoch.node == address and 3 <= epoch.epoch <= last), None)


def _ending(study: StudyFiles) -> str:
    """How the search ended, or that it has not."""
    last = (study.events or [{}])[-1]
    return str(last["status"]) if last.get("event") == "close" else "running"
