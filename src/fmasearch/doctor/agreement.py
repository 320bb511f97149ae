"""Checks of nodes together: equal versions, code, clocks and token, and a storage that all of them see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from fmasearch.doctor.lines import INSTALL, INSTALL_AGAIN, Answered, Check, Status, everywhere, on, some, there
from fmasearch.doctor.reports import NodeReport
from fmasearch.tracking.locations import redacted

CLOCK_WARNING, CLOCK_FAILURE = 1.0, 60.0
SAME_EVERYWHERE = ("python", "ray", "torch", "fmasearch")
"""Ray refuses other versions of the first two; the other two decide what a trial computes."""
_MOUNT = 'file_mounts: {"~/.ray/auth_token": "~/.ray/auth_token"}, then `ray up CLUSTER.yaml`'
_EXPORT = "`export RAY_AUTH_MODE=token` before every `ray start` and in ~/.bashrc"


def check_versions(answered: Answered) -> Iterator[Check]:
    """One line for each package that is not the same everywhere; else one line of the versions there are."""
    tables = {report.address: {"python": facts.python, **facts.packages} for report, facts in answered}
    names = list(next(iter(tables.values())))
    equal = True
    for name in names:
        versions = {address: table.get(name, "absent") for address, table in tables.items()}
        if len(set(versions.values())) == 1:
            continue
        equal = False
        bases = {_base(name, version) for version in versions.values()}
        if len(bases) == 1:  # a build for another CUDA, or a patch of Python
            yield Check("versions", "warning", f"{name}: {_odd_ones(versions)}", "builds may round otherwise")
        elif name in SAME_EVERYWHERE:
            yield Check("versions", "failed", f"{name}: {_odd_ones(versions)}", INSTALL_AGAIN)
        else:
            yield Check("versions", "warning", f"{name}: {_odd_ones(versions)}", INSTALL_AGAIN)
    first = next(iter(tables.values()))
    absent = [name for name in names if all(table.get(name) == "absent" for table in tables.values())]
    if absent:
        yield Check("versions", "failed", f"{', '.join(absent)} absent", INSTALL)
    if equal and not absent:
        words = ", ".join(f"{name} {version}" for name, version in first.items())
        yield Check("versions", "ok", f"{words}{everywhere(answered)}")


def check_code(answered: Answered) -> Iterator[Check]:
    """Sources that differ under one version number: a node that was not brought up to date."""
    hashes = {report.address: facts.code for report, facts in answered}
    if len(set(hashes.values())) == 1:
        yield Check("code", "ok", f"fmasearch {next(iter(hashes.values()))}{everywhere(answered)}")
        return
    yield Check(
        "code",
        "failed",
        f"fmasearch's own files differ: {_odd_ones(hashes)}",
        f"{INSTALL_AGAIN}; `fmasearch submit` from a checkout carries its own code along",
    )


def check_clocks(answered: Answered) -> Iterator[Check]:
    """Clocks that differ make times in journals and certificates wrong."""
    known = [(report, report.clock) for report, _ in answered if report.clock is not None]
    off = [(report, clock, max(0.0, abs(clock.ahead) - clock.error)) for report, clock in known]
    for report, clock, least in off:
        if least > CLOCK_WARNING:
            status: Status = "failed" if least > CLOCK_FAILURE else "warning"
            where = "ahead of" if clock.ahead > 0 else "behind"
            found = f"{report.address}: {abs(clock.ahead):.1f} s {where} this machine"
            yield Check("clock", status, found, there(report, "sudo timedatectl set-ntp true"))
    if off and all(least <= CLOCK_WARNING for *_, least in off):
        most = max(abs(clock.ahead) for _, clock in known)
        yield Check("clock", "ok", f"within {max(most, 0.001):.3f} s of this machine's{everywhere(answered)}")


def check_token(answered: Answered) -> Iterator[Check]:
    """Ray runs whatever code it is sent: the token is what keeps strangers out."""
    on_cluster = any(report.on_cluster for report, _ in answered)
    modes = {report.address: facts.token.auth_mode or "unset" for report, facts in answered}
    digests = {report.address: facts.token.digest for report, facts in answered}
    guarded = "token" in modes.values()
    good = True
    for report, facts in answered:
        if facts.token.mode is not None and facts.token.mode & 0o077:
            good = False
            found = f"{on(report)}{facts.token.source} may be read by others on that machine ({facts.token.mode:03o})"
            yield Check("token", "warning", found, there(report, f"chmod 600 {facts.token.source}"))
    lacking = [address for address, digest in digests.items() if not digest]
    if guarded and lacking:
        good = False
        make = "ray get-auth-token --generate; "
        yield Check("token", "failed", f"no token on {', '.join(lacking)}", f"{make}in CLUSTER.yaml: {_MOUNT}")
    elif guarded and len(set(digests.values())) > 1:
        good = False
        groups = {
            address: "one token" if digest == _most(digests) else "another" for address, digest in digests.items()
        }
        yield Check("token", "failed", f"not the same everywhere: {_odd_ones(groups)}", f"in CLUSTER.yaml: {_MOUNT}")
    if len(set(modes.values())) > 1:
        good = False
        yield Check("token", "failed", f"RAY_AUTH_MODE differs: {_odd_ones(modes)}", _EXPORT)
    elif on_cluster and not guarded:
        good = False
        found = "Ray asks for no token: whoever reaches its ports can run code on every node"
        yield Check("token", "warning", found, f"ray get-auth-token --generate; {_EXPORT}; `ray up CLUSTER.yaml`")
    if good and guarded:
        yield Check("token", "ok", f"RAY_AUTH_MODE=token, the same token{everywhere(answered)}")
    elif good:
        yield Check("token", "ok", "not in use: a study on one machine needs none")


def check_storage(answered: Answered, place: str) -> Iterator[Check]:
    """Whether every node can use the storage, and the driver sees what they write there."""
    tried = [(report, report.storage) for report, _ in answered if report.storage is not None]
    for report, result in tried:
        if result.problem:
            found = f"{on(report)}cannot use {redacted(place)}: {result.problem}"
            yield Check("storage", "failed", found, _storage_mend(report, place))
        elif not result.seen:
            found = f"{on(report)}{redacted(place)} is a place of its own: what it writes there is not seen here"
            mend = "mount the same network file system on every node, or use --storage s3://BUCKET/FOLDER"
            yield Check("storage", "failed", found, mend)
    if tried and all(not result.problem and result.seen for _, result in tried):
        words = f"{redacted(place)}: written, read back and removed"
        yield Check("storage", "ok", f"{words}{everywhere(answered)}")


def _storage_mend(report: NodeReport, place: str) -> str:
    if "://" in place:
        return "check the bucket's name and region, and the node's credentials or role (it must list, read and write)"
    return there(report, f"mkdir -p {place}, and let the user who runs Ray write there")


def check_sharing(answered: Answered, runs: str) -> Iterator[Check]:
    """Without a storage checkpoints go to the studies' folder, which other nodes may not see."""
    tried = [(report.address, report.storage) for report, _ in answered if report.storage is not None]
    apart = [address for address, result in tried if result.problem or not result.seen]
    if len(tried) < 2:
        return
    if not apart:
        yield Check("storage", "ok", f"{runs} is shared{everywhere(answered)}")
        return
    found = f"{runs} is not shared with {', '.join(some(apart))}: trials that move start from the beginning"
    yield Check("storage", "warning", found, "tune --storage s3://BUCKET/FOLDER, or a folder that all nodes share")


def _odd_ones(values: Mapping[str, str]) -> str:
    """`1.2 on most nodes, 1.1 on 10.0.0.3`: the value of most, then who has another."""
    most = _most(values)
    others: dict[str, list[str]] = {}
    for address, value in values.items():
        if value != most:
            others.setdefault(value, []).append(address)
    count = sum(value == most for value in values.values())
    where = f"on {count} nodes" if count > 1 else f"on {next(a for a, v in values.items() if v == most)}"
    odd = "; ".join(f"{value} on {', '.join(some(addresses))}" for value, addresses in others.items())
    return f"{most} {where}, {odd}"


def _most(values: Mapping[str, str]) -> str:
    """The commonest value; of equally common ones the first, which is the head's."""
    return Counter(values.values()).most_common(1)[0][0]


def _base(name: str, version: str) -> str:
    if name == "python":
        return ".".join(version.split(".")[:2])
    return version.partition("+")[0]
