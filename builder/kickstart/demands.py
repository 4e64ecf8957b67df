"""What builder demands of a kickstart that is not its own template, found in a second, before a machine starts.

Each would end in a question of the installer, in an image that does not boot, or in one that lets nobody in.

Sources: anaconda 21.48.22.159 (ui/tui/spokes: what is mandatory in text mode; kickstart.py: RootPw, Firewall).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from builder.kickstart import machine_fit, parse, preflight
from builder.kickstart.adapt import MARKER
from builder.kickstart.adapt_disks import existing
from builder.kickstart.el7_rules import LintFinding, included
from builder.kickstart.parse import Kickstart, Script

TO_A_NETWORK = "for packages of a network: --set install.network=user, and the image is not hermetic"


def unmet(text: str, disk_serial: str, token: str, files: Collection[str]) -> list[LintFinding]:
    """Return what keeps the kickstart from becoming an image.

    Args:
        text: as the installer gets it.
        disk_serial: of the machine's one disk.
        token: what its last act has to report.
        files: names of what comes along on the medium.
    """
    given, scripts = parse.read(text), parse.scripts(text)
    found = [
        *_reports(given, scripts, token),
        *_end(given),
        *_mandatory(given, scripts),
        *_boots(given),
        *_lets_in(given, scripts),
    ]
    found += [*_disks(given, disk_serial), *included(given, scripts, files)]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.line or 0)


def remote(text: str) -> list[LintFinding]:
    """Return what needs a network while installing."""
    return [_error(wrong.line, wrong.message) for wrong in preflight.sources(parse.read(text))]


def _error(line: int | None, message: str) -> LintFinding:
    return LintFinding(line, "error", message)


def _reports(given: Kickstart, scripts: Sequence[Script], token: str) -> Iterator[LintFinding]:
    post = "\n".join(script.body for script in scripts if script.kind == "%post")
    if not given.complete and (MARKER not in post or "builder-first-boot" not in post):
        return  # what is included may bring it
    if MARKER in post and f"{MARKER} {token}" not in post:
        yield _error(
            None, f"`{MARKER}` reports the token of another build: write {{{{ token }}}}, in a file named *.j2"
        )
    elif MARKER not in post:
        yield _error(
            None, f"no %post reports `{MARKER} …` on /dev/ttyS1, so the install could not be told from a failed one"
        )
    if "builder-first-boot" not in post:
        yield _error(None, "no %post installs the first-boot unit, so no copy would get an identity of its own")


def _end(given: Kickstart) -> Iterator[LintFinding]:
    ends = given.all("poweroff", "reboot", "halt")
    if not ends and given.complete:
        yield _error(None, "nothing says `poweroff`: the installer would wait for somebody to press return")
    elif ends and ends[-1].name != "poweroff":
        yield _error(
            ends[-1].line, f"`{ends[-1].name}` ends the install; builder waits for a power-off: write `poweroff`"
        )


def _mandatory(given: Kickstart, scripts: Sequence[Script]) -> Iterator[LintFinding]:
    """List what the installer would ask for in text mode."""
    if not given.complete:
        return
    if not any(script.kind == "%packages" for script in scripts):
        yield _error(
            None, "there is no %packages section: the installer would ask what to install; `@core` is the least"
        )
    if not any(not word.startswith("-") for command in given.all("timezone") for word in command.words):
        yield _error(None, "there is no `timezone`: the installer would ask for it; write `timezone UTC`")
    if not given.all("autopart", "part", "logvol", "raid", "btrfs"):
        yield _error(
            None, "there is no `autopart` and no `part`: the installer would ask where to install; write `autopart`"
        )
    elif not given.all("autopart") and not any(
        command.words[:1] == ("/",) or "/" in command.words for command in given.all("part", "logvol", "raid", "btrfs")
    ):
        yield _error(None, "no `part` or `logvol` makes a root partition: write one for /")


def _boots(given: Kickstart) -> Iterator[LintFinding]:
    for loader in given.all("bootloader"):
        if loader.option("location") == "none" or any(word.startswith("--disable") for word in loader.words):
            yield _error(
                loader.line, "without a boot loader the image would not boot; write `bootloader --location=mbr`"
            )
    for command in given.all("autopart", "part", "logvol", "raid"):
        if command.has("encrypted"):
            yield _error(
                command.line,
                "an encrypted disk asks for its passphrase at each boot, and nobody is there; leave out --encrypted",
            )


def _lets_in(given: Kickstart, scripts: Sequence[Script]) -> Iterator[LintFinding]:
    why = "the proof logs in over SSH"
    for script in scripts:
        bare = script.kind == "%packages" and "--nocore" in script.words and given.complete
        if bare and not {wanted.name for wanted in given.wanted} & {"openssh-server", "core", "Core"}:
            yield _error(script.line, f"--nocore leaves out openssh-server: {why}; add it")
    for command in given.all("rootpw"):
        if command.has("lock"):
            yield _error(command.line, "root is locked, and the proof logs in as root; leave out --lock")
    for command in given.all("services"):
        if "sshd" in (command.option("disabled") or "").replace(".service", "").split(","):
            yield _error(command.line, f"sshd is disabled: {why}; take it out of --disabled")
    for command in given.all("firewall"):
        if "ssh" in (command.option("remove-service") or "").split(","):
            yield _error(command.line, f"the firewall keeps SSH out: {why}; take ssh out of --remove-service")
    for excluded in given.excluded:
        if excluded.name in ("openssh-server", "openssh*"):
            yield _error(excluded.line, f"{excluded.name} is excluded: {why}; leave this line out")


def _disks(given: Kickstart, serial: str) -> Iterator[LintFinding]:
    for line, reason in existing(given):
        yield _error(line, reason)
    for missing in machine_fit.disks(given, serial):
        yield _error(missing.line, missing.message)
