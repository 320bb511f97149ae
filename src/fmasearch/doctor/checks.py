"""Checks of nodes: what is said of their facts, and how to mend what is wrong. Pure: from reports to lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from fmasearch.doctor.agreement import (
    check_clocks,
    check_code,
    check_sharing,
    check_storage,
    check_token,
    check_versions,
)
from fmasearch.doctor.facts import NodeFacts
from fmasearch.doctor.lines import GIB, INSTALL, INSTALL_AGAIN, Answered, Check, Status, everywhere, on, there
from fmasearch.doctor.reports import NodeReport

LEAST_MEMORY, LITTLE_MEMORY = GIB // 2, 2 * GIB
LEAST_DISK, LITTLE_DISK = 1 * GIB, 5 * GIB


_Judge: TypeAlias = Callable[[NodeReport, NodeFacts], Check | None]


def check_nodes(
    reports: Sequence[NodeReport], *, storage: str | None = None, runs: str = "", data_bytes: int = 0
) -> list[Check]:
    """Everything that follows from the reports of nodes.

    Args:
        reports: of one machine, or of a cluster.
        storage: what the nodes tried to write to; None if it was `runs`, the studies' folder.
        data_bytes: that the data will take on each node's disk.
    """
    answered = [(report, report.facts) for report in reports if report.facts is not None]
    checks = [_node(report) for report in reports]
    if not answered:
        return checks
    return [
        *checks,
        *check_versions(answered),
        *check_code(answered),
        *_each("lock file", answered, _lock_file, "packages are as locked"),
        *_each("GPU", answered, _gpu, _gpu_words(answered)),
        *_each("cores", answered, _cores, _range([facts.threads for _, facts in answered], "to use")),
        *_each("memory", answered, _memory, _sizes([facts.free_memory for _, facts in answered], "free")),
        *_each("/dev/shm", answered, _shared_memory, _shared_memory_words(answered)),
        *_each("disk", answered, _disk(data_bytes), _disk_words(answered)),
        *check_clocks(answered),
        *check_token(answered),
        *(check_storage(answered, storage) if storage is not None else check_sharing(answered, runs)),
        *_data(answered),
    ]


def _node(report: NodeReport) -> Check:
    if report.facts is None:
        return Check("node", "failed", f"{report.address}: {report.problem}", _node_mend(report))
    facts = report.facts
    words = [f"{facts.threads} cores", *_gpu_counts(facts)]
    if facts.memory is not None:
        words.append(f"{_gib(facts.memory)} memory")
    head = " (head)" if report.is_head else ""
    return Check("node", "ok", f"{report.address}{head}: {', '.join(words)}")


def _node_mend(report: NodeReport) -> str:
    if "ModuleNotFoundError" in report.problem or "AttributeError" in report.problem or "version" in report.problem:
        return f"its fmasearch is absent or another one: {INSTALL_AGAIN}"
    return "`ray status` shows whether Ray still has it; a node that hangs: take it out, or `ray up CLUSTER.yaml` again"


def _lock_file(report: NodeReport, facts: NodeFacts) -> Check | None:
    if not facts.off_lock:
        return None
    more = f" and {len(facts.off_lock) - 3} more" if len(facts.off_lock) > 3 else ""
    return Check("lock file", "warning", f"{', '.join(facts.off_lock[:3])}{more}", there(report, INSTALL))


def _gpu(report: NodeReport, facts: NodeFacts) -> Check | None:
    cuda, count = facts.cuda, len(facts.gpus)
    if not count:
        if report.ray_gpus:
            found = f"Ray offers {report.ray_gpus:g}, but the driver lists none"
            return Check(
                "GPU", "failed", found, there(report, "install the NVIDIA driver: `nvidia-smi` must list the GPU")
            )
        return None
    if not cuda.torch_cuda:
        why = cuda.problem or "no CUDA"
        mend = there(report, "pip install --force-reinstall -r requirements.lock; this torch was built without CUDA")
        return Check("GPU", "failed", f"{facts.gpus[0].name}, but torch cannot use it: {why}", mend)
    if _major(cuda.driver_cuda) < _major(cuda.torch_cuda):
        found = (
            f"driver {facts.gpus[0].driver} serves CUDA {cuda.driver_cuda or 'unknown'}, torch wants {cuda.torch_cuda}"
        )
        return Check("GPU", "failed", found, f"update the NVIDIA driver to one for CUDA {cuda.torch_cuda} or newer")
    if cuda.problem or cuda.num_devices < count:
        found = cuda.problem or f"torch sees {cuda.num_devices} of {count}"
        return Check("GPU", "failed", f"torch cannot use the GPU: {found}", there(report, "nvidia-smi; restart it"))
    if report.on_cluster and report.ray_gpus < count:
        found = f"Ray offers {report.ray_gpus:g} of {count}"
        return Check("GPU", "warning", found, f"start Ray there with `ray start ... --num-gpus {count}`")
    return None


def _cores(report: NodeReport, facts: NodeFacts) -> Check | None:
    offered = report.ray_cpus if report.on_cluster else facts.threads
    if facts.quota is None or facts.quota >= offered:
        return None
    who = "Ray offers" if report.on_cluster else "there are"
    fitting = max(1, int(facts.quota))
    command = f"ray start ... --num-cpus {fitting}" if report.on_cluster else f"fmasearch tune --concurrent {fitting}"
    return Check(
        "cores", "warning", f"{who} {offered:g}, but the container may use {facts.quota:g}", there(report, command)
    )


def _memory(report: NodeReport, facts: NodeFacts) -> Check | None:
    free = facts.free_memory
    if free is None or free >= LITTLE_MEMORY:
        return None
    status: Status = "failed" if free < LEAST_MEMORY else "warning"
    mend = "end what uses it, or ask for fewer trials at once (--concurrent, --cpu); a trial takes about 1 GiB"
    return Check("memory", status, f"{_gib(free)} free", mend)


def _shared_memory(report: NodeReport, facts: NodeFacts) -> Check | None:
    store, there_is = report.object_store, facts.shared_memory
    if store is None or there_is is None or there_is >= store:
        return None
    return Check(
        "/dev/shm",
        "warning",
        f"{_gib(there_is)}, smaller than Ray's object store ({_gib(store)}), which goes to disk then",
        f"`docker run --shm-size={-(-store // GIB)}g`, or `ray start ... --object-store-memory {int(there_is * 0.9)}`",
    )


def _disk(data_bytes: int) -> _Judge:
    def judge(report: NodeReport, facts: NodeFacts) -> Check | None:
        free = facts.free_cache
        if free is None or free >= max(LITTLE_DISK, data_bytes):
            return None
        failed = free < max(LEAST_DISK, data_bytes)
        needs = f", the data and its working copy need {_gib(data_bytes)}" if free < data_bytes else ""
        return Check(
            "disk",
            "failed" if failed else "warning",
            f"{facts.cache}: {_gib(free)} free{needs}",
            there(report, "free some, or set FMASEARCH_CACHE to a folder on a larger disk"),
        )

    return judge


def _data(answered: Answered) -> Iterator[Check]:
    for report, _ in answered:
        if report.data_problem:
            found = f"{on(report)}cannot read it: {report.data_problem}"
            yield Check("data", "failed", found, "check the URI, and the node's credentials or role (it must read)")


def _each(name: str, answered: Answered, judge: _Judge, well: str | None) -> Iterator[Check]:
    """A line for every node at fault; if none is, one line that says `well`, unless there is nothing to say."""
    at_fault = False
    for report, facts in answered:
        if check := judge(report, facts):
            at_fault = True
            yield Check(check.name, check.status, f"{on(report)}{check.found}", check.mend)
    if not at_fault and well:
        yield Check(name, "ok", f"{well}{everywhere(answered)}")


def _gpu_words(answered: Answered) -> str:
    counts = Counter(words for _, facts in answered for words in _gpu_counts(facts))
    if not counts:
        return "none: trials train on the CPU"
    cudas = sorted({facts.cuda.torch_cuda for _, facts in answered if facts.gpus})
    return f"{', '.join(counts)}; torch uses them with CUDA {', '.join(cudas)}"


def _gpu_counts(facts: NodeFacts) -> list[str]:
    counts = Counter((gpu.name, gpu.memory_bytes, gpu.driver) for gpu in facts.gpus)
    return [f"{count} {name} ({_gib(size)}, driver {driver})" for (name, size, driver), count in counts.items()]


def _shared_memory_words(answered: Answered) -> str | None:
    words = _sizes([facts.shared_memory for _, facts in answered], "")
    return words and words.strip()


def _disk_words(answered: Answered) -> str | None:
    caches = {facts.cache for _, facts in answered}
    words = _sizes([facts.free_cache for _, facts in answered], "free")
    return words and f"{words} in {caches.pop() if len(caches) == 1 else 'the caches'}"


def _sizes(sizes: Sequence[int | None], word: str) -> str | None:
    known = [size for size in sizes if size is not None]
    if not known:
        return None
    low, high = _gib(min(known)), _gib(max(known))
    return f"{low} {word}" if low == high else f"{low} to {high} {word}"


def _range(counts: Sequence[int], word: str) -> str:
    return f"{min(counts)} {word}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)} {word}"


def _major(version: str) -> int:
    head = version.partition(".")[0]
    return int(head) if head.isdigit() else 0


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB" if size < 100 * GIB else f"{size / GIB:,.0f} GiB"
