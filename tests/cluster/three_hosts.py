"""`make test-cluster`: a study over three hosts, by the real launcher, with one lost and one added on the way.

Root on Linux; elsewhere it says why not and ends with 0. Prints a table of what was checked, and ends with 1 if
anything was not as it should be. Hosts are namespaces (see `hosts.py`), so nothing of it outlives the script.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import hosts
from evidence import StudyFiles
from lab import Cluster, make_cluster
from memory import check_memory
from outside import check_mlflow
from studies import ALONE, check_loss, check_stop, check_three, study_alone
from table import Table
from up_and_down import bring_up, check_doctor, check_down

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

STAGES = {
    "doctor": "doctor",
    "equal": "the study on three hosts",
    "loss": "a second study; a host is switched on and another lost",
    "mlflow": "MLflow through a forwarded port",
    "large": "a third study, of a file larger than the object store, without storage; a host is lost; stopped",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="show all that the commands say")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=[*STAGES], help="beside `ray up` and `ray down`")
    arguments = parser.parse_args()
    if not hosts.inside() and (reason := hosts.reason_not_to_run()):
        print(f"test-cluster: skipped: {reason}")
        return 0
    hosts.enter_laboratory(CHECKOUT)  # from here on, this is the first process of namespaces of its own
    table = Table()
    try:
        run(table, arguments.only, verbose=arguments.verbose)
    except KeyboardInterrupt:
        table.print()
        print("interrupted")
        return 130
    table.print()
    return 0 if table.all_well else 1


def run(table: Table, stages: list[str], *, verbose: bool) -> None:
    with table.stage("make three hosts, and a feature file on the laptop"):
        cluster = make_cluster(CHECKOUT, verbose=verbose)
        seen = {line.split(":")[0] for host in cluster.first for line in host.processes().values()}
        table.check("hosts see their own processes: sshd alone", {"sshd"}, seen)
    if not table.all_well:
        return
    alone = StudyFiles(ALONE)
    if "equal" in stages:
        with table.stage("the study on one machine"):
            alone = study_alone(cluster)
    with table.stage("ray up"):
        bring_up(cluster, table)
    for stage in STAGES:
        if stage in stages:
            with table.stage(STAGES[stage]):
                run_stage(stage, cluster, table, alone)
    with table.stage("ray down"):
        check_down(cluster, table)


def run_stage(stage: str, cluster: Cluster, table: Table, alone: StudyFiles) -> None:
    match stage:
        case "doctor":
            check_doctor(cluster, table)
        case "equal":
            check_three(cluster, table, alone)
        case "loss":
            check_loss(cluster, table)
        case "mlflow":
            check_mlflow(cluster, table)
        case "large":
            check_stop(cluster, table, check_memory(cluster, table))


if __name__ == "__main__":
    sys.exit(main())
