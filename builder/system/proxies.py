"""Proxies that the environment names: whether they are addresses, and how people are shown them.

Invariant: a password in an address is never shown.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from builder.errors import HostError

VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


def require_addresses() -> None:
    """Check that each variable that names a proxy holds an address.

    Raises:
        HostError: one does not.
    """
    for name in (form for variable in VARIABLES for form in (variable, variable.upper())):
        value = os.environ.get(name, "").strip()
        if not value:
            continue
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise HostError(
                f"${name} is not the address of a proxy: {shown(value)}", hint=f"export {name}=http://HOST:PORT"
            )


def used_for(url: str | None) -> str:
    """Return the address of the proxy for a URL, for people."""
    proxy = select_proxy(url, get_environ_proxies(url)) if url else None
    return shown(proxy) if proxy else "of the environment"


def shown(proxy: str) -> str:
    """Return an address without user and password."""
    scheme, _, rest = proxy.rpartition("://")
    return f"{scheme or 'http'}://{rest.rpartition('@')[2].rstrip('/')}"
