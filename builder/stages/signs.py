"""The one rule: words that name a failure stand in this table, with what they mean and where they come from.

Sources, in short: `ANA` is Anaconda 21.48.22.159 (RHEL 7.9), `DRA` dracut 033, `LOR` lorax 19.7.28 (logmonitor.py),
`LIN` Linux 3.10, `SYD` systemd 219, `QEMU` 7.2 and later, `LIBVIRT` 9.0, `OS` strerror(3), `BUILDER` our own words.
Every run of white space in a text is folded to one blank before it is searched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# Whose words: the installer's console and log, the console of a booted copy, or what programs of this host say.
Speaker = Literal["installer", "system", "host"]


@dataclass(frozen=True)
class Cause:
    """What went wrong, by name.

    Args:
        name: for programs; never changes.
        brief: for people.
        hint: what to do.
        transient: the same run may succeed later although nobody mended anything.
    """

    name: str
    brief: str
    hint: str
    transient: bool = False


@dataclass(frozen=True)
class Sign:
    """Words that name a cause.

    Args:
        proof: they prove that it is over; without it they only explain an end that was seen otherwise.
    """

    speaker: Speaker
    pattern: re.Pattern[str]
    cause: str
    source: str
    proof: bool = True


_CAUSES = (
    # -- the kickstart
    Cause("kickstart error", "the installer refuses the kickstart",
          "mend the template at that line; `builder kickstart lint` finds most of these before a machine starts"),
    Cause("missing package", "a package is not on the medium",
          "remove it from kickstart.vars.packages, or use a medium that has it"),
    Cause("missing group", "a package group is not on the medium",
          "remove it, or use a medium that has it"),
    Cause("mandatory item", "the kickstart leaves a mandatory item open",
          "add what is missing (rootpw, a disk, a package source): it is marked [!] on the console"),
    Cause("partitioning", "the disk cannot be partitioned as the kickstart says",
          "compare the part lines with disk.size of the recipe"),
    Cause("disk too small", "the disk is too small for the packages",
          "raise disk.size of the recipe"),
    Cause("low memory", "the machine has too little memory",
          "raise machine.memory of the recipe"),
    Cause("script failed", "a script of the kickstart failed",
          "the line is the script's in kickstart.cfg; its output is in anaconda.log and on the console"),
    Cause("no power-off", "the installer is done, but the kickstart does not end the machine",
          "end the kickstart with `poweroff`"),
    Cause("reboot", "the guest reset itself",
          "end the kickstart with `poweroff`: a reboot would start the installer again"),
    Cause("no marker", "the guest powered itself off, but never reported success",
          "the end of %post was not reached"),
    Cause("foreign marker", "the guest powered itself off, but reported another kickstart's token",
          "the medium holds another kickstart than this run's: run again with --fresh medium"),
    # -- the installer
    Cause("packages", "the packages could not be installed",
          "see anaconda.log: a broken medium, or packages that exclude each other"),
    Cause("question", "the installer stopped at a question",
          "its words are in the details: answer it in the kickstart"),
    Cause("traceback", "the installer crashed",
          "its traceback is in anaconda.log"),
    Cause("installer ended", "the installer ended by itself",
          "see the console above that line"),
    # -- the medium
    Cause("kickstart not found", "the kickstart was not found",
          "the medium and inst.ks= do not fit"),
    Cause("dracut timeout", "the installer does not find its medium",
          "LABEL= on its command line and the volume id of the medium must be the same"),
    Cause("emergency shell", "the machine fell into an emergency shell",
          "see the console above that line"),
    Cause("medium check", "the medium check failed",
          "the medium is damaged, or was changed without a new md5"),
    # -- the guest
    Cause("kernel panic", "the guest's kernel panicked",
          "see the console above that line"),
    Cause("guest out of memory", "the guest ran out of memory",
          "raise machine.memory of the recipe"),
    Cause("console flood", "the guest writes without end",
          "see what repeats itself at the end of console.log"),
    Cause("stalled", "the guest shows no sign of life",
          "see the end of console.txt, and screenshot.png: an installer that asks a question waits for ever"),
    Cause("time limit", "the guest took too long",
          "limits.install or limits.boot of the recipe sets the time"),
    Cause("no DHCP", "the guest got no address",
          "does a DHCP server answer on this network?"),
    # -- the door
    Cause("no TCP", "the guest's SSH port is closed",
          "did the guest boot, and did its sshd start? See its console"),
    Cause("no banner", "the guest's SSH port says nothing",
          "did the guest boot, and did its sshd start? See its console"),
    Cause("key exchange", "SSH could not agree with the guest",
          "compare the guest's sshd_config with the ciphers of today"),
    Cause("sshd refuses root", "the guest's sshd refuses root",
          "PermitRootLogin and authorized_keys decide; the seed brings the key"),
    Cause("wrong host key", "another host key than the guest's own answers",
          "another machine answers there, or the guest made its keys again after it told them"),
    Cause("console refuses root", "the console refuses root's password",
          "rootpw in the kickstart, or an expired or locked account"),
    Cause("no login program", "the login prompt starts again in place of asking for a password",
          "agetty cannot run /bin/login: is it in the image? (package login on Debian, util-linux on EL)"),
    # -- the image
    Cause("no identity", "a copy did not take its identity",
          "did it boot, and did its first-boot unit run? See its console"),
    Cause("not booted", "a copy never finished booting",
          "the jobs that still run are in the details"),
    Cause("failed unit", "a service of the image failed",
          "its log is in the details"),
    Cause("check failed", "a check of the recipe failed",
          "verify.checks of the recipe has its command"),
    Cause("copies alike", "two copies of the image are alike where machines differ",
          "what makes a machine this machine must not be in the image: see the end of the kickstart's %post"),
    Cause("secret in image", "the installed disk holds a secret",
          "remove at the end of %post what the details name"),
    Cause("provision failed", "a script or playbook of the recipe failed",
          "its output is in provision.log"),
    # -- the host
    Cause("QEMU killed", "QEMU was killed",
          "whoever sent the signal is named in qemu.log; SIGKILL names nobody"),
    Cause("QEMU out of memory", "the host's kernel killed QEMU for its memory",
          "give the host more memory, or run less beside it", transient=True),
    Cause("QEMU crashed", "QEMU broke",
          "its last words are in qemu.log"),
    Cause("machine ended", "the machine was ended from outside",
          "somebody destroyed it: see the libvirt log"),
    Cause("libvirt gone", "libvirt went away",
          "look why libvirtd ended (journalctl -u libvirtd, dmesg), then run again", transient=True),
    Cause("host memory", "the host has no memory left for the machine",
          "lower machine.memory, or run less beside it", transient=True),
    Cause("disk full", "the host's disk is full",
          "builder gc; builder images prune; or --artifacts on a larger disk"),
    Cause("read-only", "the place is read-only",
          "mount it writable, or give builder another place with --artifacts"),
    Cause("rotten", "a finished file is not what it was",
          "run again: it was marked, and is built anew; look at the host's disk (dmesg, smartctl)"),
    Cause("disk error", "the machine's disk cannot be read or written",
          "dmesg of the host tells which disk fails"),
    Cause("no mirror", "no mirror gave the install medium",
          "try later, or give the ISO with --media FILE", transient=True),
    Cause("not on mirrors", "no mirror has the install medium",
          "compare media.sources of the recipe with what the mirrors have, or give the ISO with --media FILE"),
    Cause("wrong medium", "the medium is not the one that was asked for",
          "compare its sha256 with the vendor's"),
)  # fmt: skip
CAUSES = {cause.name: cause for cause in _CAUSES}


def _sign(speaker: Speaker, cause: str, source: str, pattern: str, *, proof: bool = True) -> Sign:
    return Sign(speaker, re.compile(pattern), CAUSES[cause].name, source, proof)


# The first that is found counts, so what says more stands before what follows from it.
SIGNS = (
    _sign("installer", "kickstart error", "ANA anaconda, kickstart.py",
          r"The following problem occurred on line \d+ of the kickstart file: .{0,160}"),
    _sign("installer", "missing package", "ANA yumpayload.py, errors.py",
          r"You have specified that the package '[^']*' should be installed\. This package does not exist"),
    _sign("installer", "missing package", "ANA errors.py, cmdline mode", r"Missing package: \S+"),
    _sign("installer", "missing group", "ANA yumpayload.py, errors.py",
          r"You have specified that the (?:package )?group '[^']*' should be installed\. This group does not exist"),
    _sign("installer", "missing group", "ANA errors.py, cmdline mode", r"Missing group: \S+"),
    _sign("installer", "disk too small", "ANA ui/tui/spokes/storage.py",
          r"Not enough space in file systems for the current software selection\. .{0,80}"),
    _sign("installer", "disk too small", "LOR", r"insufficient disk space: .{0,80}"),
    _sign("installer", "partitioning", "ANA kickstart.py",
          r"The following errors? occurred with your partitioning: .{0,200}"),
    _sign("installer", "partitioning", "ANA ui/tui/spokes/storage.py", r"storage configuration failed: .{0,120}"),
    _sign("installer", "partitioning", "ANA ui/tui/spokes/storage.py", r"No disks detected\. .{0,80}"),
    _sign("installer", "script failed", "ANA errors.py",
          r"There was an error running the kickstart script at line \d+.{0,600}"),
    _sign("installer", "script failed", "ANA kickstart.py, cmdline mode",
          r"Error running the kickstart script at line \d+"),
    _sign("installer", "script failed", "ANA errors.py, cmdline mode",
          r"Running in cmdline mode, no interactive debugging allowed\."),
    _sign("installer", "low memory", "ANA anaconda", r"requires \d+ MB of memory to install.{0,60}"),
    _sign("installer", "mandatory item", "ANA ui/tui/hubs/summary.py",
          r"The following mandatory spokes are not completed: .{0,100}"),
    _sign("installer", "mandatory item", "ANA ui/tui/hubs/summary.py",
          # From the first open item on.
          r"(?:\[!\] .{0,600}?)?Please make your choice from above \['q' to quit \| 'b' to begin installation"),
    _sign("installer", "packages", "ANA errors.py",
          r"The following error occurred while installing\. This is a fatal error.{0,160}"),
    _sign("installer", "packages", "ANA errors.py",
          r"The following software marked for installation has errors\..{0,160}"),
    _sign("installer", "packages", "LOR", r"packaging: base repo .{0,80} not valid"),
    _sign("installer", "traceback", "ANA exception.py",
          r"An unknown error has occured, look at the /tmp/anaconda-tb.{0,160}"),
    _sign("installer", "question", "ANA ui/tui, cmdline mode",
          r"The exact error message is: .{0,160}|The installation was stopped due to an error which occurred while "
          r"running in non-interactive cmdline mode"),
    _sign("installer", "guest out of memory", "LOR, LIN mm/oom_kill.c", r"Out of memory: .{0,100}"),
    _sign("installer", "traceback", "LOR, ANA exception.py", r"Traceback \(most recent call last\):?.{0,200}"),
    _sign("installer", "medium check", "ANA dracut/anaconda-diskroot", r"CD check failed!"),
    _sign("installer", "kickstart not found", "ANA dracut/fetch-kickstart-disk", r"Can't get kickstart from \S+"),
    _sign("installer", "kickstart not found", "ANA dracut, a CD without the file",
          r"Please insert CDROM containing '[^']*'"),
    _sign("installer", "dracut timeout", "DRA dracut-initqueue.sh",
          r"dracut-initqueue timeout - starting timeout scripts"),
    _sign("installer", "dracut timeout", "DRA", r"/dev/root does not exist"),
    _sign("installer", "emergency shell", "DRA dracut-emergency.sh", r"Entering emergency mode\."),
    _sign("installer", "kernel panic", "LIN kernel/panic.c", r"Kernel panic - not syncing: .{0,100}"),
    _sign("installer", "no power-off", "ANA ui/tui/spokes/progress.py",
          r"Installation complete\. Press return to quit"),
    _sign("installer", "installer ended", "ANA data/tmux.conf (remain-on-exit)", r"Pane is dead"),
    _sign("installer", "question", "ANA ui/tui",
          r"Press enter to exit\.|Please respond 'yes' or 'no'|"
          r"Press ENTER to continue|Enter 'b' to ignore the warning"),
    # These appear in installs that go well, too: they explain an end, and prove none.
    _sign("installer", "script failed", "ANA kickstart.py, without --erroronfail",
          r"Error code -?\d+ running the kickstart script at line \d+", proof=False),
    _sign("installer", "no DHCP", "dhclient", r"No DHCPOFFERS received\.", proof=False),
    _sign("installer", "kernel panic", "LOR, LIN", r"Call Trace:.{0,100}", proof=False),
    # -- a copy of the image that boots
    _sign("system", "kernel panic", "LIN kernel/panic.c", r"Kernel panic - not syncing: .{0,100}"),
    _sign("system", "emergency shell", "SYD emergency.service, DRA dracut-emergency.sh",
          r"You are in (?:emergency|rescue) mode\.|Welcome to emergency mode!|Entering emergency mode\."),
    _sign("system", "emergency shell", "DRA", r"dracut-initqueue timeout - starting timeout scripts"),
    _sign("system", "guest out of memory", "LIN mm/oom_kill.c", r"Out of memory: .{0,100}", proof=False),
    _sign("system", "no DHCP", "dhclient, NetworkManager",
          r"No DHCPOFFERS received\.|dhcp4 \(\w+\): request timed out", proof=False),
    # -- what programs of this host say: our own words first, for what a guest said may stand behind them
    _sign("host", "check failed", "BUILDER twin.py", r"\S+: check .{1,100} failed \(exit status -?\d+\)"),
    _sign("host", "failed unit", "BUILDER twin.py", r"\S+: failed units?: .{0,120}"),
    _sign("host", "no identity", "BUILDER twin.py",
          r"\S+ did not take its identity within|\S+ told no SSH host key on ttyS1"),
    _sign("host", "not booted", "BUILDER twin.py, console_login.py",
          r"\S+: the system never finished booting|no login prompt on the console within"),
    _sign("host", "copies alike", "BUILDER verify.py", r"two copies of the image have the same .{0,60}"),
    _sign("host", "secret in image", "BUILDER seal.py", r"the installed disk holds .{0,60}"),
    _sign("host", "provision failed", "BUILDER provision.py, ansible.py",
          r"provision: .{1,140} failed(?: \(exit status -?\d+\))?"),
    _sign("host", "kickstart error", "BUILDER answers.py", r"kickstart: line \d+: .{0,160}"),
    _sign("host", "rotten", "BUILDER catalogue.py, verify.py",
          r"has changed since it was finished|the sealed image changed while its copies ran"),
    _sign("host", "wrong host key", "BUILDER guest.py", r"wrong host key SHA256:\S+"),
    _sign("host", "sshd refuses root", "BUILDER guest.py", r"host key right, but .{0,100}"),
    _sign("host", "key exchange", "BUILDER guest.py", r"answered, but the key exchange failed .{0,100}"),
    _sign("host", "no banner", "BUILDER guest.py", r"connected, but no SSH banner.{0,60}"),
    _sign("host", "no TCP", "BUILDER guest.py", r"no TCP connection .{0,60}"),
    _sign("host", "console refuses root", "BUILDER console_login.py", r"the console refuses root's password"),
    _sign("host", "no login program", "BUILDER console_login.py",
          r"the console's login prompt starts again in place of asking for a password"),
    _sign("host", "no DHCP", "BUILDER twin.py", r"the address of \S+ did not become known"),
    _sign("host", "missing package", "BUILDER preflight.py", r"line \d+: package \S+ is not on the medium"),
    _sign("host", "missing group", "BUILDER preflight.py", r"line \d+: (?:group|environment) \S+ is not on the medium"),
    _sign("host", "disk too small", "BUILDER preflight.py", r"disk\.size is .{0,80}"),
    _sign("host", "low memory", "BUILDER preflight.py", r"machine\.memory is .{0,80}"),
    _sign("host", "no mirror", "BUILDER download.py",
          r"no mirror gave .{0,400}?(?:HTTP 5\d\d|HTTP 429|timed? ?out|refused|unreachable|reset|resolve|broke off)"),
    _sign("host", "wrong medium", "BUILDER download.py", r"sha256 is \S+, expected|sha256 expected \S+"),
    _sign("host", "not on mirrors", "BUILDER download.py", r"no mirror gave .{0,120}"),
    _sign("host", "libvirt gone", "BUILDER machine.py", r"the connection to libvirt was lost"),
    _sign("host", "disk full", "BUILDER host_facts.py", r"has \S+ GiB free, and .{0,60} needs \S+ GiB"),
    _sign("host", "disk full", "BUILDER iso_burn.py", r"no space for the new medium: .{0,80}"),
    _sign("host", "disk full", "OS ENOSPC, EDQUOT", r"No space left on device|Disk quota exceeded"),
    _sign("host", "read-only", "OS EROFS", r"Read-only file system"),
    _sign("host", "host memory", "QEMU, OS ENOMEM", r"cannot set up guest memory .{0,60}|Cannot allocate memory"),
    _sign("host", "libvirt gone", "LIBVIRT rpc/virnetclient.c, virnetsocket.c",
          r"End of file while reading data|client socket is closed|Cannot recv data: .{0,60}|"
          r"Failed to connect socket to '[^']*libvirt[^']*': .{0,60}"),
    _sign("host", "disk error", "QEMU block/qcow2.c", r"qcow2: Marking image as corrupt: .{0,120}"),
    _sign("host", "disk error", "OS EIO", r"Input/output error"),
    _sign("host", "QEMU crashed", "QEMU, glibc",
          r"Assertion `.{0,120}' failed|qemu: fatal: .{0,80}|ERROR:\S+:\d+:\w+: .{0,100}|Bail out! .{0,80}"),
    _sign("host", "QEMU killed", "QEMU softmmu/runstate.c", r"terminating on signal \d+ from pid \d+ \(.{0,80}?\)"),
)  # fmt: skip
