"""Sends a message by the library apprise, or checks addresses: `python -m builder.nightly.notify_send`.

A process of its own can be ended when a server hangs, and holds everything that apprise logs. It reads one JSON
document from standard input (`urls`, and `message` with `title`, `body` and `kind`, or null to check the addresses
only) and writes a list to standard output, with three facts about each address: `label` for people, `ok`, and `why`
not.

What it writes may hold secrets of an address; only `builder.nightly.notify` reads it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat, NotifyType, OverflowMode


class _LastWarning(logging.Handler):
    """Keeps the last warning, which says why a message was not delivered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def main() -> int:
    """Check the addresses, send the message if there is one, and write the results."""
    request = json.load(sys.stdin)
    json.dump([_answer(str(url), request["message"]) for url in request["urls"]], sys.stdout)
    return 0


def _answer(url: str, message: dict[str, str] | None) -> dict[str, Any]:
    log = _LastWarning()
    logger = logging.getLogger("apprise")
    logger.addHandler(log)
    logger.propagate = False
    try:
        service = Apprise.instantiate(url, asset=AppriseAsset(app_id="builder", async_mode=False))
        shown = label(url, service)
        if service is None:
            return {"label": shown, "ok": False, "why": ""}
        ok = message is None or _send(service, message)
        return {"label": shown, "ok": ok, "why": "" if ok else log.text}
    except Exception as fault:
        return {"label": label(url, None), "ok": False, "why": type(fault).__name__}


def _send(service: NotifyBase, message: dict[str, str]) -> bool:
    if service.overflow_mode == OverflowMode.UPSTREAM:
        # Servers refuse what is too long for them.
        service.overflow_mode = OverflowMode.SPLIT
    apprise = Apprise()
    apprise.add(service)
    kind = NotifyType(message["kind"])
    sent = apprise.notify(message["body"], message["title"], notify_type=kind, body_format=NotifyFormat.MARKDOWN)
    return bool(sent)


def label(url: str, service: Any) -> str:
    """Name an address without its secrets: `json://host:8080`, or `slack://…` where the host is a token."""
    scheme = re.match(r"[A-Za-z0-9+.-]{1,20}(?=:)", url)
    name = scheme[0].lower() if scheme else "?"
    if name.startswith("http") and service is not None:
        # The address of a webhook as its service shows it.
        name = str(service.schema)
    if service is None or not service.templates or not all("{host}" in template for template in service.templates):
        return f"{name}://…"
    return f"{name}://{service.host}{f':{service.port}' if service.port else ''}"


if __name__ == "__main__":
    sys.exit(main())
