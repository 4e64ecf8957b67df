"""A client for one repository of an OCI registry: addresses, manifests, tags, requests with retries.

Invariant: content is checked by digest, and no password goes over a network in the clear.
Sections named below are those of opencontainers/distribution-spec 1.1. Why not skopeo or oras: docs/decisions.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urljoin, urlsplit

import requests

from builder.errors import PublishError, RecipeError
from builder.registry.auth import CONNECT_TIMEOUT, Challenges, Guarded, RegistryLogin, is_loopback
from builder.system import proxies, retry
from builder.system.http_bounds import STEADY, Pace, UnboundedError, read_small
from builder.system.transfer_progress import brief

T = TypeVar("T")

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
# What a registry has to take at the least (section "Pushing Manifests").
MANIFEST_LIMIT = 4 << 20
LATEST = "latest"

# Bytes of what a registry says is wrong.
_WORDS_LIMIT = 64 << 10
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_ADDRESS = re.compile(
    r"oci://(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?)"
    rf"/(?P<repository>{_WORD}(?:/{_WORD})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class PassingError(Exception):
    """May heal by itself: worth another try."""


@dataclass(frozen=True)
class Reference:
    """`oci://host[:port]/repository[:tag][@sha256:…]`."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read an address.

        Raises:
            RecipeError: it is none. What may be a password is not repeated.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            shown = text.rpartition("@")[2] if "@" in text.partition("//")[2].partition("/")[0] else text
            raise RecipeError(
                f"{shown} is no address in a registry",
                "" if shown == text else "it holds a user or a password: --user and --password-file are for those",
                "oci://HOST[:PORT]/REPOSITORY[:TAG], in small letters: oci://registry.example/golden/centos7:latest",
            )
        # Names of hosts have no case, and are compared when it is asked who may see a password.
        return cls(**{**found.groupdict(), "host": found["host"].lower()})

    def below(self, name: str) -> Reference:
        """The repository of this name below this one."""
        return Reference.parse(f"oci://{self.host}/{self.repository}/{name}")

    @property
    def name(self) -> str:
        """Without tag and digest, for people."""
        return f"{self.host}/{self.repository}"

    @property
    def reference(self) -> str:
        """Requested reference: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or LATEST

    def __str__(self) -> str:
        tag, digest = (f":{self.tag}" if self.tag else ""), (f"@{self.digest}" if self.digest else "")
        return f"oci://{self.name}{tag}{digest}"


@dataclass(frozen=True)
class RemoteManifest:
    """A manifest as it lies in the registry.

    Args:
        etag: the strong validator (RFC 9110, section 8.8.3) that came with it.
    """

    content: bytes
    media_type: str
    etag: str | None = None

    @property
    def digest(self) -> str:
        """Digest of the bytes as received."""
        return digest_of(self.content)


def digest_of(content: bytes) -> str:
    """As OCI writes it: `sha256:` and 64 hex digits."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Repository:
    """One repository, and the connections to its registry.

    Every method raises PublishError when the registry is away, refuses, or says what cannot be.

    Args:
        pause: seconds before the first further try; each next one waits twice as long.
        pace: least speed of whatever comes and goes.
    """

    def __init__(
        self,
        address: Reference,
        login: RegistryLogin | None = None,
        *,
        pause: float = 1.0,
        tries: int = 5,
        pace: Pace = STEADY,
    ) -> None:
        proxies.require_addresses()
        self.address = address
        self.session = requests.Session()
        self._pause, self._tries = pause, tries
        self._answered = False
        adapter = Guarded(address.host, pace)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, adapter)
        self.base = f"{self._scheme()}://{address.host}"
        self.challenges = Challenges(address.host, login, adapter)
        self.session.auth = self.challenges

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self.challenges.close()
        self.session.close()

    def _scheme(self) -> str:
        """TLS, but on loopback, where a registry may do without: asked first, before anything secret is said."""
        if not is_loopback(urlsplit(f"//{self.address.host}").hostname):
            return "https"
        try:
            answer = self.session.get(f"http://{self.address.host}/v2/", timeout=CONNECT_TIMEOUT)
        except requests.RequestException:
            return "https"
        return "http" if answer.status_code in (200, 401) else "https"

    def manifest(self, reference: str) -> RemoteManifest | None:
        """The manifest under a tag or digest; None when there is none. Its digest is checked if it was asked for."""
        return self.again(lambda: self._manifest(reference))

    def _manifest(self, reference: str) -> RemoteManifest | None:
        headers = {"Accept": f"{MANIFEST_TYPE}, {INDEX_TYPE}, */*;q=0.5"}
        with self.once("GET", f"manifests/{reference}", ok=(200, 404), headers=headers, stream=True) as answer:
            if answer.status_code == 404:
                return None
            content = _limited(answer, MANIFEST_LIMIT)
        etag = answer.headers.get("ETag", "")
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        found = RemoteManifest(content, kind, etag if etag.startswith('"') else None)
        said = reference if reference.startswith("sha256:") else answer.headers.get("Docker-Content-Digest")
        if said is not None and said.startswith("sha256:") and said != found.digest:
            raise self.wrong(f"manifest {reference}", said, found.digest)
        return found

    def put_manifest(
        self,
        content: bytes,
        media_type: str,
        reference: str,
        *,
        expecting: RemoteManifest | Literal["anything"] | None = "anything",
    ) -> requests.Response | None:
        """Store a manifest under a digest or a tag.

        Args:
            expecting: what has to bear the tag at this moment, None for nothing. Registries that know conditional
                requests (RFC 9110, section 13) refuse else; the protocol does not ask it of them.

        Returns:
            None if the registry refused because of `expecting`.
        """
        headers = {"Content-Type": media_type}
        if expecting is None:
            headers["If-None-Match"] = "*"
        elif expecting != "anything" and expecting.etag:
            headers["If-Match"] = expecting.etag
        answer = self.ask("PUT", f"manifests/{reference}", ok=(200, 201, 202, 412), headers=headers, data=content)
        return None if answer.status_code == 412 else answer

    def tags(self) -> list[str]:
        """Tags of the repository, as many as the registry names at once; none when it does not say."""
        try:
            answer = self.ask("GET", "tags/list", ok=(200, 404))
            found = answer.json()["tags"] if answer.status_code == 200 else []
            return [tag for tag in found if _TAG.fullmatch(tag)]
        except (PublishError, ValueError, TypeError, LookupError, RecursionError):
            return []

    def ask(self, method: str, path: str, *, ok: Collection[int], **words: Any) -> requests.Response:
        """Make a request, and further ones while the fault may pass.

        Args:
            path: below the repository.
            ok: the statuses to return with.
        """
        return self.again(lambda: self.once(method, path, ok=ok, **words))

    def again(self, work: Callable[[], T]) -> T:
        """Do the work, and do it again while a fault may pass."""
        try:
            return retry.again(
                work,
                heals=lambda fault: isinstance(fault, PassingError),
                tries=self._tries,
                first=self._pause,
                on_retry=lambda _fault, _seconds: None,
            )
        except PassingError as fault:
            raise PublishError(
                f"the registry {self.address.host} fails again and again",
                f"{fault} ({self._tries} tries)",
                "the same command, later, goes on where this one ended",
            ) from None

    def once(self, method: str, path: str, *, ok: Collection[int], **words: Any) -> requests.Response:
        """Make one request.

        Args:
            path: below the repository, or an address that the registry gave.

        Raises:
            PassingError: may heal by itself.
        """
        with self.speaking():
            url = urljoin(f"{self.base}/v2/{self.address.repository}/", path)
            answer = self.session.request(method, url, **words)
        self._answered = True
        if answer.status_code in ok:
            return answer
        with answer:
            if retry.may_heal(answer.status_code):
                raise PassingError(f"HTTP {answer.status_code} {answer.reason}{_said(answer)}")
            raise self._refusal(answer)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Turn what requests raises into our own errors."""
        host = self.address.host
        try:
            yield
        except requests.exceptions.SSLError as fault:
            raise PublishError(
                f"the registry {host} cannot be trusted",
                brief(fault),
                "give the file of its CA: REQUESTS_CA_BUNDLE=FILE",
            ) from None
        except requests.exceptions.InvalidSchema as fault:
            raise PublishError(f"the registry {host} wants to go on without TLS", str(fault)) from None
        except UnboundedError as fault:
            raise PublishError(f"the registry {host} answers with more than it may", str(fault)) from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as fault:
            text = brief(fault)
            # Who has answered before may be starting anew; who never did is not there.
            if not self._answered and any(one in repr(fault) for one in ("NameResolutionError", "Connection refused")):
                hint = "is the address right, and does the registry run?"
                raise PublishError(f"the registry {host} does not answer", text, hint) from None
            raise PassingError(text) from None
        except requests.RequestException as fault:
            raise PublishError(f"the registry {host} cannot be asked", brief(fault)) from None
        except ValueError as fault:
            # An address to go on at that is none.
            raise PublishError(f"the registry {host} cannot be asked", f"it names an address: {fault}") from None

    def _refusal(self, answer: requests.Response) -> PublishError:
        host, status = self.address.host, f"HTTP {answer.status_code} {answer.reason}"
        said = f"{answer.request.method} {urlsplit(answer.url).path}: {status}{_said(answer)}"
        if answer.status_code in (401, 403):
            known = self.challenges.known
            brief_ = f"the registry {host} {'refuses this user' if known else 'wants a user and a password'}"
            return PublishError(
                brief_, said, "docker login, or --user NAME --password-file FILE (- for standard input)"
            )
        return PublishError(f"the registry {host} refuses", said)

    def wrong(self, what: str, wanted: str, found: str) -> PublishError:
        """The error for bytes that are not what they are called."""
        return PublishError(
            f"{self.address.name}: {what} is not what it is called",
            f"digest wanted {wanted}\ndigest found  {found}",
            "the registry's copy is damaged; push the image again, or take another version",
        )


def _limited(answer: requests.Response, limit: int) -> bytes:
    """The body of an answer that has to be small."""
    try:
        return read_small(answer, limit)
    except UnboundedError:
        raise PublishError(f"{urlsplit(answer.url).path} is larger than {limit >> 20} MiB") from None
    except requests.RequestException as fault:
        raise PassingError(brief(fault)) from None


def _said(answer: requests.Response) -> str:
    """Return the registry's own error text (section "Error Codes")."""
    try:
        errors = json.loads(read_small(answer, _WORDS_LIMIT))["errors"]
        return "".join(f", {one.get('message') or one['code']}"[:300] for one in errors[:3])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, requests.RequestException):
        return ""
