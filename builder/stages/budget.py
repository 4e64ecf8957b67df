"""Budgets of an image (size, time to the first login, number of packages); all excesses are reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.console import size_text, time_text
from builder.errors import VerifyError
from builder.settings import TCG_FACTOR
from builder.stage import Inputs


class BudgetInputs(Inputs):
    """Upper limits of the image: bytes of the sealed disk, seconds to the first login, packages."""

    size: int | None = None
    boot: float | None = None
    packages: int | None = None


def require(allowed: BudgetInputs, size: int, verified: Mapping[str, Any]) -> None:
    """Make sure that an image stays within its budget.

    Args:
        size: bytes of the sealed disk.
        verified: what the two copies showed. Where they were emulated, they may take as much longer as the limits.

    Raises:
        VerifyError: naming each budget that was exceeded, or that is not known.
    """
    twins: list[Mapping[str, Any]] = list(verified["twins"].values())
    faults: dict[str, str] = {}
    if allowed.size is not None and size > allowed.size:
        faults["size"] = f"{size_text(size)} ({size} bytes), allowed {size_text(allowed.size)} ({allowed.size})"
    if allowed.boot is not None:
        slowest = max(twins, key=lambda twin: float(twin["boot_seconds"]))
        emulated = verified.get("accel") == "tcg"
        most = allowed.boot * (TCG_FACTOR if emulated else 1.0)
        if slowest["boot_seconds"] > most:
            stretched = f" ({time_text(allowed.boot)}, stretched for TCG)" if emulated else ""
            took = time_text(slowest["boot_seconds"])
            faults["boot"] = f"root was in on {slowest['role']} after {took}, allowed {time_text(most)}{stretched}"
    if allowed.packages is not None:
        count = len(twins[0]["packages"])
        if not count:
            faults["packages"] = "the copies named none, so their number is not known"
        elif count > allowed.packages:
            faults["packages"] = f"{count}, allowed {allowed.packages}"
    if faults:
        raise VerifyError(
            f"the image exceeds its budget: {', '.join(faults)}",
            "\n".join(f"{kind}: {text}" for kind, text in faults.items()),
            "make the image smaller, or allow more: `budget` in the recipe",
        )
