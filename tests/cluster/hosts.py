"""Hosts made of Linux namespaces: each with its own address, processes, name, home, `/tmp`, `/dev/shm` and sshd.

The whole laboratory lives in namespaces of the calling script, without a name and without a file on disk: when the
script ends, however it ends, the kernel takes down its processes, mounts, bridge and links. Nothing is left over that
a later run would have to find, and the machine outside sees neither addresses nor processes change.
"""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Private to the laboratory's own network namespace, which has no way out.
LAPTOP_ADDRESS = "10.77.0.1"
BRIDGE = "bridge0"
ROOM = Path("/tmp/laboratory")
SHARED = Path("/tmp/shared")
"""A folder that every host sees: the shared disk of a lab, for checkpoints."""
HOME_TEMPLATE = ROOM / "home-template"
"""What every host finds in its home when it is switched on for the first time."""

_MARK = "FMASEARCH_LABORATORY"
_UNSHARE = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
_DIE_WITH_ME = ["setpriv", "--pdeathsig", "KILL"]
_TOOLS = ("setpriv", "unshare", "nsenter", "ip", "mount", "sshd", "ssh", "ssh-keygen", "rsync")
_SECONDS_TO_LISTEN = 10.0
_SECONDS_TO_PRINT = 10.0

_SSHD = """\
HostKey /run/sshd/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile none
PrintMotd no
MaxStartups 100
Subsystem sftp internal-sftp
"""

# The first process of a host. bash reaps the orphans it inherits, as an init must; when sshd ends, so does the host.
_INIT = """\
set -e
hostname "$NAME"
mount -t tmpfs -o size=512m tmpfs /dev/shm
mount -t overlay overlay -o "lowerdir=$LAB/home,upperdir=$LAB/$NAME/upper,workdir=$LAB/$NAME/work" "$HOME"
mount --bind "$LAB/$NAME/vartmp" /var/tmp
if [ -d "$LAB/checkout" ]; then mkdir -p "$CHECKOUT"; mount --bind "$LAB/checkout" "$CHECKOUT"; fi
mount -t tmpfs tmpfs /run
cp -r "$LAB/$NAME/etc" /run/sshd
(cd "$HOME" && rm -rf .ssh .ray .cache/fmasearch .bashrc .bash_profile .profile fmasearch ray_results)
mkdir -m 700 "$HOME/.ssh"
cp "$LAB/key.pub" "$HOME/.ssh/authorized_keys"
touch "$HOME/.bashrc"
if [ -d "$LAB/home-template" ]; then cp -a "$LAB/home-template/." "$HOME"; fi
mount --bind "$SHARED" "$LAB/$NAME/tmp/shared"
cd "$HOME"
mount --rbind "$LAB/$NAME/tmp" /tmp
unset LAB SHARED CHECKOUT
/usr/sbin/sshd -D -f /run/sshd/sshd_config &
wait $!
"""


def reason_not_to_run() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    if platform.system() != "Linux":
        return "hosts are made of Linux namespaces, and this is " + platform.system()
    if os.geteuid() != 0:
        return "making hosts takes root: run `sudo make test-cluster`"
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_path_with_sbin()) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt-get install openssh-server rsync iproute2)"
    probe = [*_UNSHARE, "sh", "-c", "mount -t tmpfs tmpfs /tmp && ip link add probe0 type bridge"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else None


def inside() -> bool:
    """Whether this process is the first one of a laboratory."""
    return os.environ.get(_MARK) == str(os.getpid())  # the first process of a PID namespace is number 1


def enter_laboratory(checkout: Path) -> None:
    """Start the calling script again as the first process of new namespaces, and return there, on the 'laptop'.

    The laptop has a home, `/tmp` and `/dev/shm` of its own, and one address on a bridge that leads nowhere else.
    """
    if not inside():
        os.environ["PATH"] = _path_with_sbin()
        os.environ[_MARK] = "1"
        code = _wait_for([*_DIE_WITH_ME, *_UNSHARE, sys.executable, *sys.argv])
        sys.exit(code if code >= 0 else 128 - code)
    _mount_laptop(checkout, _home())
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ROOM / "key"))
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ROOM / "host_key"))
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{LAPTOP_ADDRESS}/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    _run("ip", "route", "add", "default", "dev", BRIDGE)  # see `Host._connect`; it leads nowhere


@dataclass
class Host:
    """A machine of the laboratory. `pid` is its first process, as the laptop numbers it."""

    name: str
    address: str
    pid: int = 0
    unshare: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Switch it on; returns when its sshd listens."""
        room = ROOM / self.name
        for folder in ("upper", "work", "etc", "vartmp", "tmp/shared"):
            (room / folder).mkdir(parents=True)
        (room / "tmp").chmod(0o1777)
        (room / "vartmp").chmod(0o1777)
        (room / "etc" / "sshd_config").write_text(_SSHD, encoding="utf-8")
        shutil.copy(ROOM / "host_key", room / "etc" / "host_key")
        facts = {"NAME": self.name, "LAB": str(ROOM), "SHARED": str(SHARED), "HOME": str(_home())}
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **facts}
        environment["CHECKOUT"] = os.environ.get("FMASEARCH_CHECKOUT", "")
        with (ROOM / "hosts").open("a", encoding="utf-8") as names:  # everybody's /etc/hosts
            names.write(f"{self.address} {self.name}\n")
        with (room / "log").open("wb") as log:
            self.unshare = subprocess.Popen([*_UNSHARE, "bash", "-c", _INIT], env=environment, stderr=log)
        self.pid = self._find_first_process()
        self._connect()
        self._wait_for_sshd()

    def lose(self) -> None:
        """Take it away as a spot node goes: the link first, so that no goodbye leaves it, then all its processes."""
        assert self.unshare is not None
        _run("ip", "link", "set", f"to-{self.name}", "down")
        os.kill(self.pid, signal.SIGKILL)
        self.unshare.wait()

    def path(self, path: str | Path) -> Path:
        """`path` on this host, as the laptop can read it; `~` is the host's home."""
        return Path(f"/proc/{self.pid}/root{Path(path).expanduser()}")

    @property
    def is_on(self) -> bool:
        return self.unshare is not None and self.unshare.poll() is None

    def processes(self) -> dict[int, str]:
        """Command lines of what runs there, by number as the host counts; its first process aside."""
        lines = {}
        for folder in self.path("/proc").glob("[0-9]*"):
            if folder.name == "1":
                continue
            try:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if line := words.decode(errors="replace").strip():
                lines[int(folder.name)] = line
        return lines

    def _find_first_process(self) -> int:
        assert self.unshare is not None
        children = Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children")
        for _ in range(200):
            if found := children.read_text(encoding="utf-8").split():
                return int(found[0])
            time.sleep(0.02)
        raise RuntimeError(f"{self.name}: its first process did not start")

    def _connect(self) -> None:
        link = f"to-{self.name}"
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        _run("ip", "link", "set", link, "master", BRIDGE, "up")
        for command in (
            ("address", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
            # Ray learns its own address by asking for the way to an outside address: without one it is 127.0.0.1.
            ("route", "add", "default", "via", LAPTOP_ADDRESS),
        ):
            _run("nsenter", f"--target={self.pid}", "--net", "ip", *command)

    def _wait_for_sshd(self) -> None:
        deadline = time.monotonic() + _SECONDS_TO_LISTEN
        while time.monotonic() < deadline:
            if subprocess.run(ssh_to(self, "true"), capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        said = (ROOM / self.name / "log").read_text(encoding="utf-8", errors="replace").strip()
        raise RuntimeError(f"{self.name}: its sshd does not answer: {said}")


def _wait_for(laboratory: Sequence[str]) -> int:
    """Run a laboratory to its end. It cannot outlive this process, also if that is killed."""
    process = subprocess.Popen(laboratory)
    signal.signal(signal.SIGTERM, lambda *_: process.kill())  # unshare itself is deaf to it
    try:
        return process.wait()
    except KeyboardInterrupt:  # a terminal sends it to those inside as well: they print what they have
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_SECONDS_TO_PRINT)
        process.kill()
        return process.wait()


def ssh_to(host: Host, command: str) -> list[str]:
    """The command line that runs `command` on `host`."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5")
    flags = [part for option in options for part in ("-o", option)]
    return ["ssh", "-i", str(ROOM / "key"), *flags, f"root@{host.address}", command]


def _mount_laptop(checkout: Path, home: Path) -> None:
    """Give the laptop what is its own. The mount namespace is private: nothing of it shows outside."""
    hidden = any(checkout.is_relative_to(folder) for folder in (Path("/tmp"), Path("/var/tmp"), home))
    before = os.open(checkout, os.O_RDONLY)  # keeps the way to a checkout that the mounts below hide
    _run("mount", "-t", "tmpfs", "tmpfs", "/tmp")
    for folder in (SHARED, ROOM / "home", ROOM / "laptop" / "upper", ROOM / "laptop" / "work"):
        folder.mkdir(parents=True)
    _run("mount", "--bind", str(home), str(ROOM / "home"))
    layers = f"lowerdir={ROOM / 'home'},upperdir={ROOM / 'laptop' / 'upper'},workdir={ROOM / 'laptop' / 'work'}"
    _run("mount", "-t", "overlay", "overlay", "-o", layers, str(home))
    assert home.is_mount()
    _run("mount", "-t", "tmpfs", "tmpfs", "/var/tmp")
    if hidden:
        _bind_back(before, checkout)
        os.environ["FMASEARCH_CHECKOUT"] = str(checkout)
    os.close(before)
    for private in (".ssh", ".ray", ".cache/fmasearch", "ray_results"):
        shutil.rmtree(home / private, ignore_errors=True)
    _run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    _mount_etc()
    os.environ["HOME"] = str(home)
    os.chdir(home)


def _bind_back(before: int, checkout: Path) -> None:
    (ROOM / "checkout").mkdir()
    # mount(8) would resolve the link to the path that is hidden now.
    _run("mount", "--no-canonicalize", "--bind", f"/proc/self/fd/{before}", str(ROOM / "checkout"), keep=before)
    checkout.mkdir(parents=True, exist_ok=True)
    _run("mount", "--bind", str(ROOM / "checkout"), str(checkout))


def _mount_etc() -> None:
    """No name server, so that no look-up waits for one; and a root that is not locked, which sshd would turn away."""
    shadow = [line.split(":") for line in Path("/etc/shadow").read_text(encoding="utf-8").splitlines()]
    unlocked = [":".join([fields[0], "*", *fields[2:]]) for fields in shadow if fields[0] == "root"]
    contents = {
        "hosts": f"127.0.0.1 localhost\n{LAPTOP_ADDRESS} laptop\n",
        "resolv.conf": "nameserver 127.0.0.1\n",
        "shadow": "\n".join(unlocked) + "\n",
    }
    for name, text in contents.items():
        file = ROOM / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o600 if name == "shadow" else 0o644)
        place = Path("/etc", name).resolve()
        if not place.exists():  # a link into /run, which is empty now
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        _run("mount", "--bind", str(file), str(place))
    _run("hostname", "laptop")


def _home() -> Path:
    """Root's home as sshd and ssh see it, whatever `HOME` says."""
    return Path(pwd.getpwuid(0).pw_dir).resolve()


def _path_with_sbin() -> str:
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def _run(*command: str, keep: int | None = None) -> None:
    kept = () if keep is None else (keep,)
    done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=kept)
    if done.returncode:
        raise RuntimeError(f"{_text(command)}: {(done.stderr or done.stdout).strip()}")


def _text(command: Sequence[str]) -> str:
    return " ".join(command)
