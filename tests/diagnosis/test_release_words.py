"""What the installers of later releases say when they fail, in their own words, and what when all goes well."""

# ruff: noqa: E501 (the words of vendors as they are)

from __future__ import annotations

import pytest

from builder.diagnosis import classify
from builder.diagnosis.patterns import Origin
from builder.errors import Cause, Source

pytestmark = pytest.mark.unit

# Texts as they are in the sources, filled in; the line breaks are those of an 80 column console.
SAID = [
    # Anaconda rhel-8 to rhel-10, kickstart.py
    ("kickstart error", "An error occurred during reading the kickstart file:\nUnknown command: auth\n\n"
     "The installer will now terminate.", "Unknown command: auth"),
    ("kickstart error", "The following problem occurred on line 7 of the kickstart file:\n\nUnknown command: auth\n",
     "line 7"),
    # dnf 4, exceptions.py (MarkingErrors), in the dialog of Anaconda rhel-8 and rhel-9, errors.py
    ("missing package", "Question\n\nProblems in request:\nmissing packages: chroni\n\nWould you like to ignore this and "
     "continue with installation?\n\nPlease respond 'yes' or 'no': ", "chroni"),
    ("missing group", "Problems in request:\nmissing groups or modules: cor\n\nWould you like to ignore this and "
     "continue with\ninstallation?", "cor"),
    # The same where no question can be asked (cmdline)
    ("missing package", "Non interactive installation failed: Problems in request:\nmissing packages: chroni", "chroni"),
    # Anaconda rhel-10, dnf_manager.py
    ("missing package", "Non interactive installation failed: Some packages, groups or modules are missing.\n\n"
     "Problems in request:\nmissing packages: chroni", "chroni"),
    # Anaconda rhel-8 and rhel-9, errors.py
    ("packages", "Problems in request:\nbroken packages: x\n\nSome packages, groups or modules are broken, the "
     "installation will be aborted.\n\nPress ENTER to exit: ", "are broken"),
    # Anaconda rhel-9 and rhel-10, errors.py
    ("packages", "The following error occurred while setting up the payload. This is a fatal error and installation "
     "will be\naborted.\n\nFailed to mount", "Failed to mount"),
    ("packages", "The following error occurred while installing the payload. This is a fatal error and installation "
     "will be aborted.\n\nrpm failed", "rpm failed"),
    # Anaconda rhel-8 to main, errors.py
    ("packages", "The following error occurred while installing.  This is a fatal error and installation will be "
     "aborted.\n\nDNF error: x", ""),
    ("packages", "The following software marked for installation has errors.\nThis is likely caused by an error with "
     "your installation source.", ""),
    # Anaconda rhel-8, payload.py
    ("packages", "12:00:00,123 ERR packaging:Payload setup error: PayloadSetupError('no usable repo')", "no usable repo"),
    ("packages", "Found no CD-ROM", ""),
    # Anaconda rhel-8 and rhel-9, payload/dnf/payload.py, where no question can be asked (cmdline)
    ("packages", "Non interactive installation failed: DNF error: Error in POSTIN scriptlet in rpm package x", "scriptlet"),
    # Anaconda rhel-10, dnf_manager.py
    ("packages", "Failed to download the following packages: bash: no mirrors", "bash"),
    ("packages", "An error occurred during the transaction: rpmdb open failed", "rpmdb"),
    ("packages", "Transaction check error: file /usr/bin/x conflicts", "conflicts"),
    # Anaconda rhel-8 to main, errors.py
    ("boot loader", "The following error occurred while installing the boot loader. The system will not be bootable. "
     "Would you like to ignore this and continue with installation?\n\nfailed to write boot loader", "failed to write"),
    # Anaconda rhel-8 to rhel-10, tui/spokes/storage.py; simpleline's columns
    ("partitioning", "3) [x] Software selection                4) [!] Installation Destination\n"
     "       (Custom software selected)               (Kickstart insufficient)\n", "Installation Destination"),
    ("partitioning", "5) [!] Installation Destination          6) [x] Network configuration\n"
     "       (Error checking storage                  (Connected: eth0)\n        configuration)\n", None),
    ("partitioning", "5) [!] Installation Destination\n       (Error checking storage configuration)\n", ""),
    ("disk too small", "Not enough space in file systems for the current software selection. An additional 512.3 MiB is "
     "needed.", "512.3 MiB"),
    # simpleline, render/prompt.py; Anaconda rhel-9, tui/hubs/summary.py
    ("mandatory item", "7) [!] Root password                     8) [ ] User creation\n       (Password is not set.)\n\n"
     "Please make a selection from the above ['b' to begin installation, 'h' to help,\n'q' to quit, 'r' to refresh]: ",
     "[!] Root password"),
    ("mandatory item", "The following mandatory spokes are not completed:\nRoot password", "Root password"),
    ("question", "Press ENTER to exit: ", ""),
    ("question", "Would you like to ignore this and continue with installation?\n\nPlease respond 'yes' or 'no': ", ""),
    ("question", "Non interactive installation failed: Unable to find a usable disk", "usable disk"),
    # Anaconda rhel-8 to rhel-10, startup_utils.py
    ("low memory", "Rocky Linux requires 410 MB of memory to install, but you only have 256 MB on this machine.\n\n"
     "Press [Enter] to reboot your system.", "256 MB"),
    ("no power-off", "Installation complete. Press ENTER to quit: ", ""),
    ("script failed", "There was an error running the kickstart script at line 41.  This is a fatal error and "
     "installation will be aborted.  The details of this error are:\n\nmkdir: cannot create\n\nPress ENTER to exit: ",
     "mkdir: cannot create"),
    ("traceback", "An unknown error has occured, look at the /tmp/anaconda-tb* file(s) for more details", ""),
    # Anaconda rhel-9 and rhel-10, dracut/anaconda-diskroot
    ("medium check", "Media check failed! We do not recommend using this medium. System will halt in 12 hours", "12 hours"),
    # dracut 057, dracut-initqueue.sh
    ("dracut timeout", "[  141.7] dracut-initqueue[368]: Warning: dracut-initqueue: timeout, still waiting for following "
     "initqueue hooks:", ""),
    ("dracut timeout", "[  141.8] dracut-initqueue[368]: Warning: dracut-initqueue: starting timeout scripts", ""),
    # Anaconda rhel-9 and later, dracut/anaconda-error-reporting.sh
    ("dracut timeout", "dracut Warning: It seems that the boot has failed. Possible causes include \n"
     "dracut Warning: missing inst.stage2 or inst.repo boot parameters on the ", "inst.stage2"),
    # glibc, then Linux
    ("CPU too old", "Fatal glibc error: CPU does not support x86-64-v3\n[    1.8] Kernel panic - not syncing: Attempted "
     "to kill init! exitcode=0x00007f00", "x86-64-v3"),
]  # fmt: skip
# What explains an end that was seen otherwise, and is also in logs of installs that go well.
EXPLAINED = [
    (
        "missing package",
        "Some packages, groups or modules are missing or broken:\nProblems in request:\nmissing packages: x",
    ),
    ("missing package", "No match for argument: chroni"),
    ("partitioning", "You have not defined a root partition (/), which is required for installation to continue."),
]
GOOD = """
[    0.000000] Linux version 5.14.0-570.el9.x86_64 (mockbuild@x) #1 SMP
Welcome to Rocky Linux 9.8 (Blue Onyx) dracut-057-87.git20250311.el9 (Initramfs)!
[  OK  ] Finished dracut initqueue hook.
[   12.3] dracut-initqueue[912]: anaconda using disk root at /dev/sr0
Starting installer, one moment...
anaconda 34.25.7.19-1.el9.rocky.0.2 for Rocky Linux 9.8 started.
 * installation log files are stored in /tmp during the installation
 * shell is available on TTY2 and in second TMUX pane (ctrl+b, then press 2)
 * if the graphical installation interface fails to start, try again with the
   inst.text bootoption to start text installation
Starting automated install..
Checking storage configuration...
================================================================================
Installation

1) [x] Language settings                 2) [x] Time settings
       (English (United States))                (UTC timezone)
3) [x] Installation source               4) [x] Software selection
       (Local media)                            (Custom software selected)
5) [x] Installation Destination          6) [x] Kdump
       (Custom partitioning selected)           (Kdump is disabled)
7) [x] Network configuration             8) [x] Root password
       (Connected: eth0)                        (Root password is set)
================================================================================
Progress
.
Setting up the installation environment
Configuring storage
Creating disklabel on /dev/sda
Creating xfs on /dev/sda1
Running pre-installation scripts
Running pre-installation tasks
Installing
Starting package installation process
Downloading packages
Preparing transaction from installation source
Installing libgcc.x86_64 (1/340)
Installing dracut-config-generic.x86_64 (340/340)
Performing post-installation setup tasks
Verifying libgcc.x86_64 (1/340)
Installing boot loader
Performing post-installation setup tasks
Configuring installed system
Generating initramfs
Running post-installation scripts
[  OK  ] Reached target System Power Off.
[  333.3] reboot: Power down
12:00:01,123 WARNING org.fedoraproject.Anaconda.Modules.Storage:Warning: You have not specified a swap partition. \
Although not strictly required in all cases, it will significantly improve performance for most installations.
12:00:02,123 DEBUG packaging:Some packages, groups or modules are missing or broken: x
12:00:03,123 INFO anaconda:Thread Done: AnaPayloadThread (140)
12:00:04,123 INFO program:Running... efibootmgr
12:00:05,123 INFO dnf:Failed to add repo: no
12:00:06,123 INFO anaconda:Installation Destination is ready
"""


@pytest.mark.parametrize(("cause", "said", "line"), SAID, ids=range(len(SAID)))
def test_the_vendors_words_name_the_cause(cause: str, said: str, line: str | None) -> None:
    for text in (said, f"Installing x (1/2)\n{said}\n[anaconda] 1:main* 2:shell", said.replace("\n", "\r\n")):
        found = classify.classify(text, Source.CONSOLE)
        if line is None:
            # Two columns tear these words apart: then it is the prompt below that is found.
            assert found is None
            continue
        assert found is not None
        assert found.cause == cause
        assert line in found.line


@pytest.mark.parametrize(("cause", "said"), EXPLAINED)
def test_what_good_logs_have_as_well_only_explains(cause: str, said: str) -> None:
    assert classify.classify(said, Source.INSTALLER_LOG) is None
    found = classify.classify(said, Source.INSTALLER_LOG, conclusive=False)
    assert found is not None
    assert found.cause == cause


@pytest.mark.parametrize("origin", [Origin.INSTALLER, Origin.GUEST])
def test_an_install_that_goes_well_says_nothing_of_all_that(origin: Origin) -> None:
    assert classify.classify(GOOD, Source.CONSOLE, origin) is None
    assert classify.classify(GOOD, Source.CONSOLE, origin, conclusive=False) is None
    for line in GOOD.splitlines():
        assert classify.classify(line, Source.CONSOLE, origin, conclusive=False) is None


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("Fatal glibc error: CPU does not support x86-64-v2\nKernel panic - not syncing: x", Cause.CPU_TOO_OLD),
        ("dracut-initqueue[3]: Warning: dracut-initqueue: starting timeout scripts", Cause.EMERGENCY_SHELL),
    ],
)
def test_a_copy_that_does_not_boot(said: str, cause: Cause) -> None:
    found = classify.classify(said, Source.CONSOLE, Origin.GUEST)
    assert found is not None
    assert found.cause is cause


def test_the_prompt_is_no_part_of_the_words() -> None:
    found = classify.classify(
        "There was an error running the kickstart script at line 4. x\nPress ENTER to exit: ", Source.CONSOLE
    )
    assert found is not None
    assert "Press" not in found.line
