"""Words of other programs that name the cause of a failure, with what they mean and where they come from.

Sources, in short: `ANA` is Anaconda 21.48.22.159 (RHEL 7.9); `ANA8`, `ANA9`, `ANA10` its branches rhel-8 (33.16),
rhel-9 (34.25), rhel-10 (40.22); `SL` python-simpleline, `DNF` dnf 4, `DNF5` dnf5, `KT` kickstart-tests
(log_handler.py), `DRA` dracut 033, `DRA057` dracut 057 and dracut-ng 107, `LOR` lorax 19.7.28 (logmonitor.py), `LIN`
Linux 3.10, `GLIBC` glibc 2.33 and later, `SYD` systemd 219, `QEMU` 7.2 and later, `LIBVIRT` 9.0, `OS` strerror(3).
One table serves all releases: their words do not collide, and a medium of an unexpected release explains itself, too.
Every run of white space in a text is folded to one blank before it is searched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from builder.errors import Cause


class Origin(Enum):
    """Whose words a text has."""

    # The console and the log of the installer; the console of a booted image; programs of this host.
    INSTALLER = auto()
    GUEST = auto()
    HOST = auto()


@dataclass(frozen=True)
class Pattern:
    """Words that name a cause.

    Args:
        reference: the program that writes them, and where in its source.
        conclusive: they prove that it is over; without it they only explain an end that was seen otherwise.
    """

    origin: Origin
    regex: re.Pattern[str]
    cause: Cause
    reference: str
    conclusive: bool = True


def _pattern(origin: Origin, cause: Cause, reference: str, regex: str, *, conclusive: bool = True) -> Pattern:
    return Pattern(origin, re.compile(regex), cause, reference, conclusive)


# What modprobe says of a module that does not fit the running kernel. One that only lacks its device is normal.
_REFUSED = (
    r"modprobe: (?:can't load module .{1,80}?|ERROR: could not insert .{1,40}?): (?i:unknown symbol in module"
    r"(?:, or unknown parameter)?|invalid module format|module has wrong symbol version|required key not available)"
)
# Lists of dnf that end in a question, or where no question can be asked. Alone, they are also in the log of an install
# that goes well in spite of them (%packages --ignoremissing).
_DNF_ASKS = (
    r"(?:Non interactive installation failed: .{{0,120}}?{0}: .{{1,120}}|"
    r"{0}: .{{1,300}}? Would you like to ignore this)"
)
# The first that is found counts, so what says more comes before what follows from it.
PATTERNS = (
    # Before the panic that follows.
    _pattern(Origin.INSTALLER, Cause.CPU_TOO_OLD, "GLIBC", r"Fatal glibc error: CPU does not support x86-64-v\d"),
    _pattern(Origin.INSTALLER, Cause.KICKSTART_ERROR, "ANA anaconda, kickstart.py",
          r"The following problem occurred on line \d+ of the kickstart file: .{0,160}"),
    _pattern(Origin.INSTALLER, Cause.KICKSTART_ERROR, "ANA8, ANA9, ANA10 kickstart.py",
          r"An error occurred during reading the kickstart file: .{0,200}"),
    _pattern(Origin.INSTALLER, Cause.MISSING_GROUP, "DNF MarkingErrors; ANA8, ANA9 errors.py",
          _DNF_ASKS.format("missing groups or modules")),
    _pattern(Origin.INSTALLER, Cause.MISSING_PACKAGE, "DNF MarkingErrors; ANA8, ANA9 errors.py",
          _DNF_ASKS.format("missing packages")),
    _pattern(Origin.INSTALLER, Cause.MISSING_PACKAGE, "ANA10 dnf_manager.py",
          r"Some packages, groups or modules are missing\..{0,160}"),
    _pattern(Origin.INSTALLER, Cause.MISSING_PACKAGE, "ANA yumpayload.py, errors.py",
          r"You have specified that the package '[^']*' should be installed\. This package does not exist"),
    _pattern(Origin.INSTALLER, Cause.MISSING_PACKAGE, "ANA errors.py, cmdline mode", r"Missing package: \S+"),
    _pattern(Origin.INSTALLER, Cause.MISSING_GROUP, "ANA yumpayload.py, errors.py",
          r"You have specified that the (?:package )?group '[^']*' should be installed\. This group does not exist"),
    _pattern(Origin.INSTALLER, Cause.MISSING_GROUP, "ANA errors.py, cmdline mode", r"Missing group: \S+"),
    _pattern(Origin.INSTALLER, Cause.DISK_TOO_SMALL, "ANA ui/tui/spokes/storage.py",
          r"Not enough space in file systems for the current software selection\. .{0,80}"),
    _pattern(Origin.INSTALLER, Cause.DISK_TOO_SMALL, "LOR", r"insufficient disk space: .{0,80}"),
    _pattern(Origin.INSTALLER, Cause.PARTITIONING, "ANA kickstart.py",
          r"The following errors? occurred with your partitioning: .{0,200}"),
    _pattern(Origin.INSTALLER, Cause.PARTITIONING, "ANA ui/tui/spokes/storage.py",
          r"storage configuration failed: .{0,120}"),
    _pattern(Origin.INSTALLER, Cause.PARTITIONING, "ANA ui/tui/spokes/storage.py", r"No disks detected\. .{0,80}"),
    _pattern(Origin.INSTALLER, Cause.PARTITIONING, "ANA8, ANA9, ANA10 tui/spokes/storage.py",
          # Another item may be beside it, before its second line.
          r"\[!\] Installation Destination .{0,60}?\((?:Kickstart insufficient|Error checking storage configuration)"),
    _pattern(Origin.INSTALLER, Cause.SCRIPT_FAILED, "ANA errors.py",
          r"There was an error running the kickstart script at line \d+.{0,600}"),
    _pattern(Origin.INSTALLER, Cause.SCRIPT_FAILED, "ANA kickstart.py, cmdline mode",
          r"Error running the kickstart script at line \d+"),
    _pattern(Origin.INSTALLER, Cause.SCRIPT_FAILED, "ANA errors.py, cmdline mode",
          r"Running in cmdline mode, no interactive debugging allowed\."),
    _pattern(Origin.INSTALLER, Cause.LOW_MEMORY, "ANA anaconda", r"requires \d+ MB of memory to install.{0,60}"),
    _pattern(Origin.INSTALLER, Cause.MANDATORY_ITEM, "ANA ui/tui/hubs/summary.py",
          r"The following mandatory spokes are not completed: .{0,100}"),
    _pattern(Origin.INSTALLER, Cause.MANDATORY_ITEM, "ANA ui/tui/hubs/summary.py",
          # From the first open item on.
          r"(?:\[!\] .{0,600}?)?Please make your choice from above \['q' to quit \| 'b' to begin installation"),
    _pattern(Origin.INSTALLER, Cause.MANDATORY_ITEM, "SL render/prompt.py; ANA9 tui/hubs/summary.py",
          r"(?:\[!\] .{0,600}?)?Please make a selection from the above \[.{0,120}?'b' to begin installation"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "ANA8, ANA9, ANA10 errors.py, dnf_manager.py",
          r"Some packages, groups or modules are broken.{0,160}"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "ANA9, ANA10 errors.py",
          r"The following error occurred while (?:setting up|installing) the payload\. .{0,200}"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "ANA8 payload.py, KT", r"Payload setup error: .{0,160}"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "ANA8, ANA9, ANA10", r"Found no CD-ROM"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "ANA10 dnf_manager.py",
          r"Failed to download the following packages: .{0,120}|An error occurred during the transaction: .{0,160}"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "DNF, KT", r"Transaction check error:.{0,160}"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "ANA8, ANA9 payload/dnf/payload.py", r"DNF error: .{0,160}"),
    _pattern(Origin.INSTALLER, Cause.BOOT_LOADER, "ANA8, ANA9, ANA10 errors.py",
          r"The following error occurred while installing the boot loader\. .{0,240}"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "ANA errors.py",
          r"The following error occurred while installing\. This is a fatal error.{0,160}"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "ANA errors.py",
          r"The following software marked for installation has errors\..{0,160}"),
    _pattern(Origin.INSTALLER, Cause.PACKAGES, "LOR", r"packaging: base repo .{0,80} not valid"),
    _pattern(Origin.INSTALLER, Cause.TRACEBACK, "ANA exception.py",
          r"An unknown error has occured, look at the /tmp/anaconda-tb.{0,160}"),
    _pattern(Origin.INSTALLER, Cause.QUESTION, "ANA8, ANA9, ANA10 errors.py, cmdline mode",
          r"Non interactive installation failed: .{0,200}"),
    _pattern(Origin.INSTALLER, Cause.QUESTION, "ANA ui/tui, cmdline mode",
          r"The exact error message is: .{0,160}|The installation was stopped due to an error which occurred while "
          r"running in non-interactive cmdline mode"),
    _pattern(Origin.INSTALLER, Cause.GUEST_OUT_OF_MEMORY, "LOR, LIN mm/oom_kill.c", r"Out of memory: .{0,100}"),
    _pattern(Origin.INSTALLER, Cause.TRACEBACK, "LOR, ANA exception.py",
          r"Traceback \(most recent call last\):?.{0,200}"),
    _pattern(Origin.INSTALLER, Cause.MEDIUM_CHECK, "ANA dracut/anaconda-diskroot", r"CD check failed!"),
    _pattern(Origin.INSTALLER, Cause.MEDIUM_CHECK, "ANA9, ANA10 dracut/anaconda-diskroot",
          r"Media check failed!.{0,80}"),
    _pattern(Origin.INSTALLER, Cause.KICKSTART_NOT_FOUND, "ANA dracut/fetch-kickstart-disk",
          r"Can't get kickstart from \S+"),
    _pattern(Origin.INSTALLER, Cause.KICKSTART_NOT_FOUND, "ANA dracut, a CD without the file",
          r"Please insert CDROM containing '[^']*'"),
    _pattern(Origin.INSTALLER, Cause.MODULE_REFUSED, "BUSYBOX modutils/modutils.c, KMOD tools/modprobe.c", _REFUSED),
    _pattern(Origin.INSTALLER, Cause.DRACUT_TIMEOUT, "DRA dracut-initqueue.sh",
          r"dracut-initqueue timeout - starting timeout scripts"),
    _pattern(Origin.INSTALLER, Cause.DRACUT_TIMEOUT, "DRA057 dracut-initqueue.sh",
          r"dracut-initqueue: (?:timeout, still waiting for following initqueue hooks|starting timeout scripts)"),
    _pattern(Origin.INSTALLER, Cause.DRACUT_TIMEOUT, "ANA9, ANA10 dracut/anaconda-error-reporting.sh",
          r"It seems that the boot has failed\. .{0,160}"),
    _pattern(Origin.INSTALLER, Cause.DRACUT_TIMEOUT, "DRA", r"/dev/root does not exist"),
    _pattern(Origin.INSTALLER, Cause.EMERGENCY_SHELL, "DRA dracut-emergency.sh", r"Entering emergency mode\."),
    _pattern(Origin.INSTALLER, Cause.KERNEL_PANIC, "LIN kernel/panic.c", r"Kernel panic - not syncing: .{0,100}"),
    _pattern(Origin.INSTALLER, Cause.NO_POWER_OFF, "ANA ui/tui/spokes/progress.py",
          r"Installation complete\. Press return to quit"),
    _pattern(Origin.INSTALLER, Cause.NO_POWER_OFF, "ANA8, ANA9, ANA10 tui/spokes/installation_progress.py",
          r"Installation complete\. Press ENTER to quit"),
    _pattern(Origin.INSTALLER, Cause.INSTALLER_ENDED, "ANA data/tmux.conf (remain-on-exit)", r"Pane is dead"),
    _pattern(Origin.INSTALLER, Cause.QUESTION, "ANA ui/tui",
          r"Press enter to exit\.|Please respond 'yes' or 'no'|"
          r"Press ENTER to continue|Enter 'b' to ignore the warning"),
    _pattern(Origin.INSTALLER, Cause.QUESTION, "SL adv_widgets.py; ANA8, ANA9, ANA10 errors.py, startup_utils.py",
          r"Would you like to ignore this and continue with installation\?|Press ENTER to exit|"
          r"Press \[Enter\] to reboot your system"),
    # These appear in installs that go well, too: they explain an end, and prove none.
    _pattern(Origin.INSTALLER, Cause.SCRIPT_FAILED, "ANA kickstart.py, without --erroronfail",
          r"Error code -?\d+ running the kickstart script at line \d+", conclusive=False),
    _pattern(Origin.INSTALLER, Cause.MISSING_PACKAGE, "DNF MarkingErrors, DNF5",
          r"missing packages: .{1,120}|missing groups or modules: .{1,120}|No match for argument: \S+",
          conclusive=False),
    _pattern(Origin.INSTALLER, Cause.PARTITIONING, "ANA9, ANA10 storage/checker/utils.py",
          r"You have not defined a root partition.{0,200}", conclusive=False),
    _pattern(Origin.INSTALLER, Cause.NO_DHCP, "dhclient", r"No DHCPOFFERS received\.", conclusive=False),
    _pattern(Origin.INSTALLER, Cause.KERNEL_PANIC, "LOR, LIN", r"Call Trace:.{0,100}", conclusive=False),
    # -- a copy of the image that boots
    _pattern(Origin.GUEST, Cause.CPU_TOO_OLD, "GLIBC", r"Fatal glibc error: CPU does not support x86-64-v\d"),
    _pattern(Origin.GUEST, Cause.KERNEL_PANIC, "LIN kernel/panic.c", r"Kernel panic - not syncing: .{0,100}"),
    _pattern(Origin.GUEST, Cause.MODULE_REFUSED, "BUSYBOX modutils/modutils.c, KMOD tools/modprobe.c", _REFUSED),
    _pattern(Origin.GUEST, Cause.EMERGENCY_SHELL, "SYD emergency.service, DRA dracut-emergency.sh",
          r"You are in (?:emergency|rescue) mode\.|Welcome to emergency mode!|Entering emergency mode\."),
    _pattern(Origin.GUEST, Cause.EMERGENCY_SHELL, "DRA", r"dracut-initqueue timeout - starting timeout scripts"),
    _pattern(Origin.GUEST, Cause.EMERGENCY_SHELL, "DRA057", r"dracut-initqueue: starting timeout scripts"),
    _pattern(Origin.GUEST, Cause.GUEST_OUT_OF_MEMORY, "LIN mm/oom_kill.c",
          r"Out of memory: .{0,100}", conclusive=False),
    _pattern(Origin.GUEST, Cause.NO_DHCP, "dhclient, NetworkManager",
          r"No DHCPOFFERS received\.|dhcp4 \(\w+\): request timed out", conclusive=False),
    # -- programs of this host
    _pattern(Origin.HOST, Cause.DISK_FULL, "OS ENOSPC, EDQUOT", r"No space left on device|Disk quota exceeded"),
    _pattern(Origin.HOST, Cause.READ_ONLY, "OS EROFS", r"Read-only file system"),
    _pattern(Origin.HOST, Cause.HOST_MEMORY, "QEMU, OS ENOMEM",
          r"cannot set up guest memory .{0,60}|Cannot allocate memory"),
    _pattern(Origin.HOST, Cause.LIBVIRT_GONE, "LIBVIRT rpc/virnetclient.c, virnetsocket.c",
          r"End of file while reading data|client socket is closed|Cannot recv data: .{0,60}|"
          r"Failed to connect socket to '[^']*libvirt[^']*': .{0,60}"),
    _pattern(Origin.HOST, Cause.DISK_ERROR, "QEMU block/qcow2.c", r"qcow2: Marking image as corrupt: .{0,120}"),
    _pattern(Origin.HOST, Cause.DISK_ERROR, "OS EIO", r"Input/output error"),
    _pattern(Origin.HOST, Cause.QEMU_CRASHED, "QEMU, glibc",
          r"Assertion `.{0,120}' failed|qemu: fatal: .{0,80}|ERROR:\S+:\d+:\w+: .{0,100}|Bail out! .{0,80}"),
    _pattern(Origin.HOST, Cause.QEMU_KILLED, "QEMU softmmu/runstate.c",
          r"terminating on signal \d+ from pid \d+ \(.{0,80}?\)"),
)  # fmt: skip
