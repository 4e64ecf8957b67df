"""The content store: an object is in `objects/` under its digest if and only if it is complete.

It is built in `tmp/`, described by `stage.json`, flushed, and moved by one rename. A builder holds the digest's lock
and looks again after locking; a reader holds it too, shared, so that nothing is replaced under it.
"""

from __future__ import annotations

import os
import secrets as randomness
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from builder.errors import HostError
from builder.stage import Ledger, Reason, ReasonKind, Step, canonical
from builder.store.objects import RECORD, Record, describe, find_corruption, flush, read, recorded, remove
from builder.system import locks
from builder.system.atomic_file import replacing, sync_folder
from builder.system.digests import DigestCache

__all__ = ["ABSENT", "KEY_BYTES", "RECORD", "ObjectBuild", "Record", "Store", "kept_mark", "recorded"]

ABSENT = Reason(ReasonKind.DELETED, "finished object is not in the store")
KEY_BYTES = 32


class ObjectBuild:
    """One object in the making: `found` when it stands already, else `out` is the directory to fill."""

    def __init__(self, store: Store, step: Step, run_id: str, needs: Mapping[str, str]) -> None:
        self.found: Record | None = None
        self.out = store.temporary(run_id, step.stage.name)
        self.scratch = store.temporary(run_id, f"{step.stage.name}-scratch")
        self._store, self._step, self._run_id, self._needs = store, step, run_id, needs

    def finish(self, ledger: Ledger, seconds: float) -> Record:
        """Describe, flush and move into place what is in `out`; an older object under this digest gives way.

        Raises:
            PublishError: the stage left something that is neither a file nor a folder.
        """
        stage, store = self._step.stage, self._store
        with ledger.spend("hash"):
            files = describe(self.out, hashed=not stage.intermediate, cache=store.digests)
        names = {name: file.sha256 or f"{self._run_id} {file.mtime_ns}" for name, file in files.items()}
        record = Record(
            stage=stage.name,
            version=stage.version,
            digest=self._step.digest,
            run_id=self._run_id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            inputs=self._step.inputs.model_dump(mode="json"),
            needs=dict(self._needs),
            made_from={name: found.content for name, found in _loaded(store, self._needs)},
            content=sha256(canonical(names)).hexdigest(),
            seconds=round(seconds, 3),
            ledger=ledger.as_dict(),
            files=files,
        )
        text = record.model_dump_json(indent=2) + "\n"
        (self.out / RECORD).write_text(text, encoding="utf-8")
        (self.out / RECORD).chmod(0o444)
        flush(self.out)
        target = store.path(self._step.digest)
        # Between the two renames there is no object: then it has to be built again, but nothing false stands.
        old = store.temporary(self._run_id, f"{stage.name}-old")
        if target.exists():
            target.rename(old)
        self.out.rename(target)
        sync_folder(store.objects)
        remove(old)
        return record


class Store:
    """The content store below one directory; nothing is written before something has to be kept.

    `objects/` may be entered but not listed by others: QEMU runs as another user and opens files in it by name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = root / "objects"
        self.tmp = root / "tmp"
        self.locks = root / "locks"
        self.marks = root / "runs"
        self.secrets = root / "secrets"
        self.index = root / "index"
        # Made when first needed; a download that broke off is resumed from here.
        self.downloads = root / "downloads"
        self.digests = DigestCache(root / "digests.sqlite")

    def prepare(self) -> None:
        """Make the directories.

        Raises:
            HostError: they cannot be made.
        """
        open_ones = {self.root, self.objects, self.tmp}
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.root, self.objects, self.tmp, self.locks, self.marks, self.secrets, self.index):
                mode = 0o711 if folder in open_ones else 0o700
                if not folder.is_dir():
                    folder.mkdir(mode=mode, exist_ok=True)
                    folder.chmod(mode)
        except OSError as fault:
            raise HostError(
                f"the store {self.root} cannot be made: {fault.strerror}",
                hint="give builder another place with --artifacts, or mend the permissions of this one",
            ) from fault

    def path(self, digest: str) -> Path:
        """Return the directory of the finished object of this digest, whether it exists or not."""
        return self.objects / digest

    def lock(self, name: str) -> Path:
        """The lock file of a digest, or of something else with a name."""
        return self.locks / name

    def temporary(self, run_id: str, what: str) -> Path:
        """A new name in `tmp/`; swept when the run is dead."""
        return self.tmp / f"{run_id}.{what}.{randomness.token_hex(4)}"

    def sha256_of(self, path: Path) -> str:
        """SHA-256 of a file, hashed only if it changed since it was hashed last (`builder.system.digests`)."""
        return self.digests.sha256_of(path)

    # -- finished objects

    def load(self, digest: str) -> Record | None:
        """The object's record; None when there is no such object, or its record cannot be read."""
        return read(self.path(digest) / RECORD)

    def why_stale(self, digest: str, needs: Mapping[str, str]) -> Reason | None:
        """Return why the object cannot be used; None when it can, `ABSENT` when there is none.

        A cheap look: every file with its recorded size and time stamp, and made from what the needed stages hold now.

        Args:
            needs: digest of each needed stage, by name.
        """
        while (folder := self._inode(digest)) is not None:
            try:
                reason = self._why_stale(digest, needs)
            except FileNotFoundError:
                continue
            # Another run may have put a new object here while we looked: then we saw half of each.
            if self._inode(digest) == folder:
                return reason
        return ABSENT

    def _inode(self, digest: str) -> int | None:
        try:
            return self.path(digest).stat().st_ino
        except FileNotFoundError:
            return None

    def _why_stale(self, digest: str, needs: Mapping[str, str]) -> Reason | None:
        record = self.load(digest)
        if record is None:
            return Reason(ReasonKind.CORRUPT, f"finished object damaged: {RECORD} cannot be read")
        change = find_corruption(self.path(digest), record)
        if change is not None:
            return Reason(ReasonKind.CORRUPT, f"finished object damaged: {change}")
        for name, found in _loaded(self, needs):
            if record.made_from.get(name) != found.content:
                return Reason(ReasonKind.CONSEQUENCE, f"{name} was built anew")
        return None

    def touch(self, digest: str) -> None:
        """Note that the object is in use, for `gc`."""
        with suppress(FileNotFoundError):
            os.utime(self.path(digest))

    @contextmanager
    def building(
        self,
        step: Step,
        run_id: str,
        needs: Mapping[str, str],
        *,
        why_stale: Callable[[], Reason | None] | None = None,
        keep: bool = False,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[ObjectBuild]:
        """Build one object while no one else builds it or replaces what it reads.

        Yields an `ObjectBuild`: either `found`, because the object exists, or empty directories `out` and `scratch` and
        a `finish` to call. What was not finished when the block ends is removed.

        Args:
            needs: digest of each needed stage, by name.
            why_stale: asked, with the locks held, why the object has to be built; None when it need not.
                Without it, what the store itself sees decides.
            keep: leave the directories in place when the block fails, also when later runs sweep.
            on_wait: called before waiting for a lock, with what its holder says of itself.
        """
        self.prepare()
        with ExitStack() as stack:
            holder = f"run {run_id} (process {os.getpid()})"
            stack.enter_context(locks.held(self.lock(step.digest), holder=holder, on_wait=on_wait))
            # Always from a later stage to an earlier one, so that two runs never wait for each other in a ring.
            for digest in sorted(needs.values()):
                stack.enter_context(locks.held(self.lock(digest), shared=True, on_wait=on_wait))
            build = ObjectBuild(self, step, run_id, needs)
            stale = why_stale() if why_stale else self.why_stale(step.digest, needs)
            if stale is None:
                self.touch(step.digest)
                build.found = self.load(step.digest)
                yield build
                return
            folders = [build.out, build.scratch]
            try:
                for folder in folders:
                    folder.mkdir()
                    folder.chmod(0o711)
                yield build
            except BaseException:
                if keep:
                    for folder in folders:
                        kept_mark(folder).touch()
                    folders = []
                raise
            finally:
                for folder in folders:
                    remove(folder)

    # -- what was built last for a name

    def remember(self, name: str, record: Record) -> None:
        """Record this as the latest object of its stage for this name."""
        self.prepare()
        (self.index / name).mkdir(mode=0o700, exist_ok=True)
        if self.recall(name, record.stage) != record:
            with replacing(self.index / name / f"{record.stage}.json", mode=0o600) as file:
                file.write(record.model_dump_json(indent=2).encode())

    def recall(self, name: str, stage: str) -> Record | None:
        """The latest object of the stage for this name, which may be gone; None when there was none."""
        return read(self.index / name / f"{stage}.json")

    # -- secrets

    def has_secret(self, name: str) -> bool:
        """Return whether the secret was made already."""
        return os.path.lexists(self.secrets / name)

    def secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The secret of this name; `make` is called when there is none yet, in one process only.

        Raises:
            HostError: the store cannot be written to, or the secret is not ours to read.
        """
        path = self.secrets / name
        # What is there and cannot be read is an error: another secret in its place would fit no image.
        if not os.path.lexists(path):
            self.prepare()
            with locks.held(self.lock("secrets")):
                if not os.path.lexists(path):
                    with replacing(path, mode=0o600) as file:
                        file.write(make())
        try:
            return path.read_bytes()
        except OSError as fault:
            raise HostError(f"{path} cannot be read: {fault.strerror}", hint="run builder as its owner") from fault

    @property
    def key(self) -> bytes:
        """The store's HMAC key, 32 bytes, made once.

        Raises:
            HostError: it cannot be read or made, or is damaged.
        """
        key = self.secret("key", lambda: randomness.token_bytes(KEY_BYTES))
        if len(key) != KEY_BYTES:
            raise HostError(
                f"{self.secrets / 'key'} is damaged: it holds {len(key)} bytes, and not {KEY_BYTES}",
                hint="restore it from a backup, or remove it: everything is built anew then",
            )
        return key


def kept_mark(folder: Path) -> Path:
    """The file that tells sweepers to leave this directory of `tmp/` alone."""
    return folder.with_name(f"{folder.name}.keep")


def _loaded(store: Store, needs: Mapping[str, str]) -> Iterator[tuple[str, Record]]:
    """The records of the needed objects that are there."""
    for name, digest in needs.items():
        found = store.load(digest)
        if found is not None:
            yield name, found
