"""Run the whole job on bare Debian systems, one per suite, and print a table of the results.

`python -m tests.hosts [--steps "run again"] [--keep] SUITE...`, as root, with the standard library alone: it also runs
where builder is not set up yet. A system is made by mmdebstrap from this machine's own apt settings, holds nothing but
the packages that every Debian has, make and this checkout, and is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
LOGS = CHECKOUT / "artifacts" / "hosts"
FOLDER = Path("/srv/builder")
STEPS = {
    "run": ("make", "run"),
    "again": ("make", "run"),
    "check": ("make", "check"),
    "machines": ("make", "machines"),
}
# It may be broken any day through no fault of builder's.
MAY_FAIL = ("sid",)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
# The machine's own way to the package archives, for apt and pip.
NETWORK_FILES = (Path("etc/resolv.conf"), Path("etc/hosts"), Path("etc/pip.conf"), CERTIFICATES)
NETWORK_VARIABLES = re.compile(r"(?i)(PIP_|SSL_CERT_|REQUESTS_CA_BUNDLE$|(http|https|ftp|no|all)_proxy$)")
# Whatever ends this process ends all below it, and its mounts with it.
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
VERSIONS = """
kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: linux-image-//p' | head -n 1)
libvirt=$(libvirtd --version 2>/dev/null | sed 's/.* //')
qemu=$(qemu-system-x86_64 --version 2>/dev/null | sed -n '1s/.*version \\([0-9.]*\\).*/\\1/p')
python=$(python3 --version 2>/dev/null | sed 's/.* //')
echo "${kernel:--} ${libvirt:--} ${qemu:--} ${python:--}"
"""


@dataclass
class Host:
    """Collects what became of one suite.

    Args:
        steps: seconds of each step that succeeded, by name.
        failed: the step that failed; None when all succeeded.
        reason: the last words of that step.
    """

    suite: str
    versions: tuple[str, ...] = ("-", "-", "-", "-")
    steps: dict[str, float] = field(default_factory=dict)
    failed: str | None = None
    reason: str = ""

    def row(self, steps: Sequence[str]) -> list[str]:
        """Return the cells of its line in the table."""
        cells = {name: f"{seconds:.0f} s" for name, seconds in self.steps.items()}
        result = f"{self.failed} failed" if self.failed else "ok"
        return [self.suite, *self.versions, *(cells.get(name, "-") for name in steps), result]


def sources(suite: str) -> list[str]:
    """Return this machine's Debian sources as lines for sources.list, with its suite replaced.

    Of another suite's parts only the updates and the security updates are taken over; sid has neither.
    """
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    parts = ("",) if suite == "sid" else ("", "-updates", "-security")
    options = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    lines = []
    for line in dict.fromkeys(output.splitlines()):
        uri, release, component = line.split()
        if release.removeprefix(codename) in parts and release.startswith(codename):
            lines.append(f"deb {options}{uri} {suite}{release.removeprefix(codename)} {component}")
    if not lines:
        raise SystemExit("hosts: apt knows no source of this machine's Debian; on Debian, run apt-get update first")
    return lines


def make_root(root: Path, suite: str, log: Path) -> None:
    """Make a bare system of a suite: what every Debian has, make, the way to the network and this checkout."""
    with tempfile.TemporaryDirectory() as work:
        settings = Path(work) / "etc" / "apt"
        (settings / "apt.conf.d").mkdir(parents=True)
        dump = subprocess.run(["apt-config", "dump", "Acquire"], check=True, capture_output=True, text=True).stdout
        kept = [line for line in dump.splitlines() if "::IndexTargets" not in line]
        (settings / "apt.conf.d" / "00machine").write_text("\n".join(kept) + "\n")
        for name in ("auth.conf", "auth.conf.d"):
            if (Path("/etc/apt") / name).exists():
                subprocess.run(["cp", "-a", f"/etc/apt/{name}", settings], check=True)
        argv = [*NAMESPACES, "--mount-proc", "mmdebstrap", "--mode=root", "--variant=minbase"]
        argv += [
            "--include=make,ca-certificates",
            f"--setup-hook=copy-in {settings} /etc",
            suite,
            str(root),
            *sources(suite),
        ]
        run_logged(argv, log)
    for path in NETWORK_FILES:
        if (Path("/") / path).exists():
            (root / path).unlink(missing_ok=True)
            shutil.copyfile(Path("/") / path, root / path)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        source, target = CHECKOUT / name, root / FOLDER.relative_to("/") / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def run_logged(argv: Sequence[str], log: Path) -> None:
    """Run a program with its output appended to a file; it does not outlive this process, whatever ends that.

    Raises:
        CalledProcessError: it failed.
    """
    network = {name: value for name, value in os.environ.items() if NETWORK_VARIABLES.match(name)}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {**network, "PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
    words = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    with (
        log.open("ab") as output,
        subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        ) as child,
    ):
        try:
            status = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    if status:
        raise subprocess.CalledProcessError(status, list(argv))


def inside(root: Path, name: str, argv: Sequence[str], log: Path) -> None:
    """Run a program in the root file system, see enter.sh.

    Raises:
        CalledProcessError: it failed.
    """
    script = Path(__file__).with_name("enter.sh")
    run_logged([*NAMESPACES, "--ipc", "--uts", "sh", str(script), str(root), name, str(FOLDER), *argv], log)


@contextmanager
def root_folder(suite: str, keep: bool) -> Iterator[Path]:
    """Give a folder for a root file system, and remove it at the end unless it is to be kept after a failure."""
    root = Path(tempfile.mkdtemp(prefix=f"builder-hosts-{suite}-", dir="/var/tmp"))
    root.chmod(0o755)
    failed = True
    try:
        yield root
        failed = False
    finally:
        if failed and keep:
            print(f"{suite}: kept {root}", flush=True)
        else:
            # A second interrupt would leave half of it.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            subprocess.run(["rm", "-rf", "--one-file-system", root], check=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)


def images(root: Path) -> list[str]:
    """List the image versions that builder has made in the root file system."""
    return sorted(str(path) for path in (root / FOLDER.relative_to("/") / "artifacts" / "images").glob("*/*"))


def last_words(log: Path) -> str:
    """Return the line that says most about a failure: the last error, else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"(?i)^(E: |ERROR\b|FAILED\b|error: )", line)]
    return ([*lines[-1:], *errors[-1:]] or [""])[-1]


def prove(suite: str, steps: Sequence[str], keep: bool) -> Host:
    """Make the system of a suite and run the steps in it until one fails."""
    host = Host(suite)
    step = "root"
    log = LOGS / f"{suite}-{step}.log"
    try:
        with root_folder(suite, keep) as root:
            for step in ("root", *steps):
                log = LOGS / f"{suite}-{step}.log"
                log.unlink(missing_ok=True)
                before = images(root)
                print(f"{suite}: {step} …", flush=True)
                began = time.monotonic()
                if step == "root":
                    make_root(root, suite, log)
                else:
                    inside(root, suite, STEPS[step], log)
                seconds = time.monotonic() - began
                print(f"{suite}: {step} ok, {seconds:.0f} s", flush=True)
                host.steps[step] = seconds
                if step == "again" and images(root) != before:
                    raise AssertionError("the second run built another image")
                if step != "root":
                    versions = LOGS / f"{suite}-versions.log"
                    versions.unlink(missing_ok=True)
                    inside(root, suite, ("sh", "-c", VERSIONS), versions)
                    host.versions = tuple(versions.read_text().split())
    except (subprocess.CalledProcessError, AssertionError) as fault:
        host.failed = step
        host.reason = last_words(log) if isinstance(fault, subprocess.CalledProcessError) else str(fault)
        print(f"{suite}: {step} failed: {host.reason}\n  see {log}", flush=True)
    return host


def print_table(hosts: Sequence[Host], steps: Sequence[str]) -> None:
    """Print what became of all suites."""
    rows = [["suite", "kernel", "libvirt", "QEMU", "Python", *steps, "result"], *(host.row(steps) for host in hosts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for host in hosts:
        if host.failed:
            print(f"{host.suite}: {host.reason}{' (allowed)' if host.suite in MAY_FAIL else ''}")


def main() -> int:
    """Return 0 when every suite that must not fail is proved."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts")
    parser.add_argument("suites", nargs="+", metavar="SUITE")
    parser.add_argument("--steps", default=" ".join(STEPS), help=f"of: {' '.join(STEPS)}")
    parser.add_argument("--keep", action="store_true", help="leave the system of a suite that failed")
    options = parser.parse_args()
    steps = options.steps.split()
    if unknown := [step for step in steps if step not in STEPS]:
        parser.error(f"unknown step {unknown[0]}")
    if missing := [program for program in ("git", "mmdebstrap", "unshare") if shutil.which(program) is None]:
        print(f"hosts: needs {' '.join(missing)}", file=sys.stderr)
        return 3
    if os.geteuid() != 0:
        print("hosts: only root can make and enter systems", file=sys.stderr)
        return 3
    # As an interrupt, so that what is under way is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    LOGS.mkdir(parents=True, exist_ok=True)
    hosts: list[Host] = []
    try:
        for suite in options.suites:
            hosts.append(prove(suite, steps, options.keep))
    except KeyboardInterrupt:
        return 130
    finally:
        print_table(hosts, ["root", *steps])
    return int(any(host.failed and host.suite not in MAY_FAIL for host in hosts))


if __name__ == "__main__":
    sys.exit(main())
