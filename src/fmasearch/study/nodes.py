"""What a study may rely on, on the nodes of its cluster: said at its start, not when something is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fmasearch.data.remote import is_uri
from fmasearch.errors import StudyError
from fmasearch.ray_session import Node, cluster_nodes
from fmasearch.study.checkpoints import SHARED_MARK
from fmasearch.study.folder import StudyPlan
from fmasearch.study.runtime import Runtime

_ANSWER_SECONDS = 60.0  # starting a worker on a busy machine takes several


def cluster_notes(plan: StudyPlan, runtime: Runtime) -> list[str]:
    """Sentences for the user about the cluster: its nodes, and where checkpoints go. None on a single machine.

    Raises:
        StudyError: if a node does not see the study's `storage`.
    """
    if runtime.source is None:
        return []
    nodes = [node for node in cluster_nodes() if node.alive]
    others = [node for node in nodes if node.node_id != runtime.source.node_id]
    blind = [] if is_uri(plan.checkpoints) else _without(Path(plan.checkpoints) / SHARED_MARK, others)
    if blind and plan.storage is not None:
        raise StudyError(
            f"--storage {plan.storage}: not seen by {', '.join(node.address for node in blind)}; give a folder that "
            f"is mounted on every node, or an s3:// or gs:// URI"
        )
    return [_machines(nodes), _checkpoints(plan, others, blind)]


def _machines(nodes: Sequence[Node]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return f"cluster: {count}, cpu={cpus:g}, gpu={gpus:g}; a node gets the data when its first trial starts"


def _checkpoints(plan: StudyPlan, others: Sequence[Node], blind: Sequence[Node]) -> str:
    if plan.storage is not None or (others and not blind):
        place = plan.storage or f"{plan.folder.root}, which every node sees"
        return f"checkpoints: in {place}; a lost node costs the epochs since the last one"
    return (
        "checkpoints: there is no storage that every node sees, so a trial on another node that is lost starts again "
        "from its first epoch; --storage with a shared folder or an s3:// or gs:// URI keeps what it learned"
    )


def _without(file: Path, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that do not see `file`; one that does not answer in time counts as such."""
    look = ray.remote(_exists)
    asked = {
        node: look.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        ).remote(str(file))
        for node in nodes
    }
    return [node for node, answer in asked.items() if not _answer(answer)]


def _exists(file: str) -> bool:
    return Path(file).exists()


def _answer(reference: Any) -> bool:
    try:
        return bool(ray.get(reference, timeout=_ANSWER_SECONDS))
    except (GetTimeoutError, RayError):
        return False
