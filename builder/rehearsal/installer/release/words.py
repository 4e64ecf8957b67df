# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""The texts of Anaconda, two sets: of 21.48 (EL7), and of 33 and later, with the few that changed in between.

Sources: rhel7-branch 21.48.22.159; rhel-8 33.16.10.5, rhel-9 34.25.7.19, rhel-10 40.22.3.57, all below pyanaconda/:
errors.py, exception.py, kickstart.py, startup_utils.py, ui/tui/hubs/summary.py, ui/tui/spokes/; python-simpleline
(render/prompt.py, adv_widgets.py); dnf 4 (exceptions.py: MarkingErrors); dracut 033, 049, 057.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

PROBLEMS = "Problems in request:"
IGNORE = "Would you like to ignore this and continue with installation?"


@dataclass(frozen=True)
class Words:
    """One set.

    Args:
        bad_kickstart: around what is wrong with the kickstart, before there is a user interface.
        pre_failed: a failed script, then; with its line and its output.
        little_memory: behind the sentence about the memory.
        hub: the prompt of the list of items.
        choice: the prompt of the menu after an unknown error.
        acknowledge: the prompt of a message.
        complete: the prompt at the end.
        titles: of the items of the hub.
        columns: in which they are listed.
        told: the state of an item that is complete, of one that is not, and of one that was checked and is wrong; none
            where items show no state.
        stopped: the last words of cmdline mode.
        unasked: in front of an error that would be asked about, in cmdline mode.
        missing: in front of a list of what the medium does not have; empty where each name is asked about alone.
        storage_failed: a layout that cannot be made.
        no_packages: packages that cannot be installed.
        packages_failed: in front of why.
        loader_first: the boot loader is said to come before the tasks behind the packages.
        storing: the line before the kickstart is stored; empty where that comes last, and says nothing.
        screen: the graphical session that is not offered.
        timeout, no_boot: how the initramfs gives up.
    """

    bad_kickstart: str = "\n{}"
    pre_failed: str = "There was an error running the kickstart script at line {}.\n\n{}"
    little_memory: str = ""
    hub: str = "  Please make your choice from above ['q' to quit | 'b' to begin installation |\n  'r' to refresh]: "
    choice: str = "\n 1) Report Bug\n 2) Run shell\n 3) Quit\n\nPlease make your choice from above: "
    acknowledge: str = "Press enter to exit."
    complete: str = "\nInstallation complete.  Press return to quit"
    titles: tuple[str, ...] = (
        *("Language support", "Timezone settings", "Installation source", "Software selection"),
        *("Installation Destination", "Root password", "User creation"),
    )
    columns: int = 1
    told: tuple[str, str, str] | None = None
    stopped: str = (
        "\nThe installation was stopped due to an error which occurred while running in non-interactive cmdline mode."
        "\nSince there cannot be any questions in cmdline mode, edit your kickstart file and retry installation."
        "\nThe exact error message is: \n\n{}.\n\nThe installer will now terminate."
    )
    unasked: str = ""
    missing: str = ""
    storage_failed: str = "storage configuration failed: {}"
    no_packages: str = (
        "The following error occurred while installing.  This is a fatal error and installation will be aborted."
    )
    packages_failed: str = ""
    loader_first: bool = False
    storing: str = ""
    screen: str = "VNC"
    timeout: tuple[str, ...] = ("Warning: dracut-initqueue timeout - starting timeout scripts",)
    no_boot: tuple[str, ...] = field(default=("Warning: Could not boot.",))


EL7 = Words()
EL8 = replace(
    EL7,
    bad_kickstart=("\nAn error occurred during reading the kickstart file:\n{}\n\nThe installer will now terminate."),
    # No user interface is there to be asked, so the error ends the program; the output is in the log alone.
    pre_failed="Traceback (most recent call last):\npyanaconda.errors.ScriptError",
    little_memory=(
        "\nPress [Enter] to reboot your system.\n\nThe installation cannot continue and the system will be rebooted"
    ),
    hub=(
        "\nPlease make a selection from the above ['b' to begin installation, 'h' to help, 'q' to quit,\n"
        "'r' to refresh]: "
    ),
    choice=(
        "\nWhat do you want to do now?\n1) Report Bug\n2) Debug\n3) Run shell\n4) Quit\n\n"
        "Please make a selection from the above: "
    ),
    acknowledge="\nPress ENTER to exit: ",
    complete="\nInstallation complete. Press ENTER to quit: ",
    titles=(
        *("Language settings", "Time settings", "Installation source", "Software selection"),
        *("Installation Destination", "Kdump", "Network configuration", "Root password", "User creation"),
    ),
    columns=2,
    told=("Done", "Kickstart insufficient", "Error checking storage configuration"),
    stopped=(
        "\nThe installation was stopped due to an error which occurred while running in non-interactive cmdline mode. "
        "Since there cannot be any questions in cmdline mode, edit your kickstart file and retry installation. "
        "\nThe exact error message is: \n\n{}. \n\nThe installer will now terminate."
    ),
    unasked="Non interactive installation failed: ",
    missing=PROBLEMS,
    storage_failed="{}",
    packages_failed="DNF error: ",
    loader_first=True,
    storing="Storing configuration files and kickstarts",
)
EL9 = replace(
    EL8,
    no_packages=(
        "The following error occurred while installing the payload. This is a fatal error and installation will be "
        "aborted."
    ),
    timeout=(
        "Warning: dracut-initqueue: timeout, still waiting for following initqueue hooks:",
        "Warning: /lib/dracut/hooks/initqueue/finished/kickstart.sh",
        "Warning: dracut-initqueue: starting timeout scripts",
    ),
    no_boot=(
        "Warning: ############# Anaconda installer errors begin #############",
        "Warning: #                                                         #",
        "Warning: It seems that the boot has failed. Possible causes include ",
        "Warning: missing inst.stage2 or inst.repo boot parameters on the ",
        "Warning: kernel cmdline. Please verify that you have specified ",
        "Warning: inst.stage2 or inst.repo.",
        "Warning: Please also note that the 'inst.' prefix is now mandatory.",
        "Warning: #                                                         #",
        "Warning: ############# Anaconda installer errors end ###############",
        "Warning: dracut-initqueue: Could not boot.",
    ),
)
EL10 = replace(
    EL9,
    missing=f"Some packages, groups or modules are missing.\n\n{PROBLEMS}",
    packages_failed="An error occurred during the transaction: ",
    screen="remote desktop session",
)
