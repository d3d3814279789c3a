"""The API keys that callers show: a file of their hashes, with role, expiry and limits, read again when it changes.

name sha256-of-key [role=admin] [expires=2027-01-31T00:00:00Z] [requests_per_minute=60] [tokens_per_minute=20000]
    [tokens_per_day=1000000] [concurrent=4]
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from actors.base.errors import InvalidArgument, NotFound, Unauthenticated
from actors.base.files import write_whole
from actors.base.quota import NO_LIMITS, Limits
from actors.base.security import equal

log = logging.getLogger(__name__)
PREFIX = "rk-"
KEY_BYTES = 32
MAX_NAME, MAX_LIMIT = 128, 10**12
MAX_FILE_BYTES = 16 << 20
LIMITS = tuple(field.name for field in fields(Limits))
Role = Literal["user", "admin"]
Changed = Callable[[str, str, str], None]
"""(key.create or key.revoke, name, digest): hears what changed in the file."""


@dataclass(frozen=True)
class ApiKey:
    """A caller as the file lists it: its name, which is its tenant, and the SHA-256 (hex) of its key."""

    name: str
    digest: str
    role: Role = "user"
    expires: datetime | None = None
    limits: Limits = NO_LIMITS

    @property
    def line(self) -> str:
        """As it stands in the file."""
        more = [f"role={self.role}"] if self.role != "user" else []
        if self.expires is not None:
            more.append(f"expires={self.expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
        more += [f"{name}={value}" for name in LIMITS if (value := getattr(self.limits, name))]
        return " ".join((self.name, self.digest, *more))


class ApiKeys:
    """The keys in a file. A key is 256 random bits, so a plain hash of it cannot be guessed back."""

    def __init__(self, path: Path, changed: Changed | None = None) -> None:
        """Raises InvalidArgument where the file cannot be read, or others may write to it."""
        self._path = path
        self._changed = changed
        self._seen = self._version()
        self.keys = read(path)

    def refreshed(self) -> tuple[ApiKey, ...]:
        """The keys as the file has them now; as it had them where it is broken, none where it is gone."""
        if (version := self._version()) != self._seen:
            self._seen = version
            try:
                before, self.keys = self.keys, read(self._path) if version else ()
            except InvalidArgument as error:
                log.error("the API keys stay as they were: %s", error)
            else:
                self._tell({(key.name, key.digest) for key in before}, {(key.name, key.digest) for key in self.keys})
        return self.keys

    def check(self, given: str, now: datetime | None = None) -> ApiKey:
        """Whose key it is. Raises Unauthenticated; takes as long for a wrong key as for any right one."""
        digest = hashlib.sha256(given.encode(errors="replace")).hexdigest()
        found = [key for key in self.refreshed() if equal(digest, key.digest)]
        if not found:
            raise Unauthenticated("the API key is not known here; ask whoever runs this Russet for one")
        key = found[0]
        if key.expires is not None and key.expires <= (now or datetime.now(UTC)):
            raise Unauthenticated(f"the API key of {key.name} expired at {key.expires:%Y-%m-%d %H:%M} UTC")
        return key

    def _tell(self, before: set[tuple[str, str]], after: set[tuple[str, str]]) -> None:
        for action, changes in (("key.create", after - before), ("key.revoke", before - after)):
            for name, digest in sorted(changes):
                if self._changed is not None:
                    self._changed(action, name, digest)

    def _version(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


def create(
    path: Path, name: str, role: Role = "user", expires: datetime | None = None, limits: Limits = NO_LIMITS
) -> str:
    """Add a caller; returns its key, which is stored nowhere. Gateways know it from their next request on."""
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    added = ApiKey(name, hashlib.sha256(key.encode()).hexdigest(), role, expires, limits)
    with _locked(path):
        if path.exists() and any(each.name == name for each in read(path)):
            raise InvalidArgument(f"{path} has a key named {name} already; `russet key revoke` ends it", param="name")
        before = path.read_text() if path.exists() else ""
        parse_line(added.line, name)
        write_whole(path, (before.rstrip("\n") + "\n" * bool(before.strip()) + added.line + "\n").encode())
    return key


def revoke(path: Path, name: str) -> None:
    """Take a caller's key out. Raises NotFound where there is none of this name."""
    with _locked(path):
        if not any(each.name == name for each in read(path)):
            raise NotFound(f"{path} has no key named {name[:MAX_NAME]!r}; `russet key list` shows those that it has")
        kept = [line for line in path.read_text().splitlines() if line.split()[:1] != [name]]
        write_whole(path, "".join(f"{line}\n" for line in kept).encode())


def read(path: Path) -> tuple[ApiKey, ...]:
    """The keys in a file. Raises InvalidArgument naming the line that is none."""
    try:
        status = path.stat()
        if stat.S_IMODE(status.st_mode) & 0o022:
            raise InvalidArgument(f"{path}: others may write to it, and so make keys; accepted after chmod 600 {path}")
        if status.st_size > MAX_FILE_BYTES:
            raise InvalidArgument(f"{path} has {status.st_size} bytes; accepted are up to {MAX_FILE_BYTES}")
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InvalidArgument(f"cannot read API keys from {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is no text; expected lines of NAME and the SHA-256 of its key") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    return tuple(parse_line(line, f"{path}:{number}") for number, line in numbered)


def parse_line(line: str, where: str) -> ApiKey:
    """One key. Raises InvalidArgument that begins with `where`."""
    words: list[str] = line.split() or [""]
    name, rest = words[0], words[1:]
    if not name or len(name) > MAX_NAME or name.startswith("#") or not name.isprintable() or "=" in name:
        raise InvalidArgument(f"{where}: expected a name of one word that does not start with #", param="name")
    if not rest or len(rest[0]) != 64 or any(c not in "0123456789abcdef" for c in rest[0]):
        raise InvalidArgument(f"{where}: expected NAME and the SHA-256 of its key in hex", param="name")
    given: dict[str, str] = {}
    for part in rest[1:]:
        given[part.partition("=")[0]] = part.partition("=")[2]
    role, expires = given.pop("role", "user"), given.pop("expires", None)
    if role not in ("user", "admin"):
        raise InvalidArgument(f"{where}: role={role[:20]}; accepted: user, admin", param="role")
    try:
        until = datetime.fromisoformat(expires) if expires is not None else None
    except ValueError:
        raise InvalidArgument(f"{where}: expires={expires}; accepted: a time like 2027-01-31T00:00:00Z") from None
    if until is not None and until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    limits = {}
    for limit, text in given.items():
        if limit not in LIMITS or not (text.isascii() and text.isdigit() and 0 < int(text[:15]) <= MAX_LIMIT):
            accepted = ", ".join(LIMITS)
            raise InvalidArgument(f"{where}: {limit[:40]}={text[:20]}; accepted: role, expires, {accepted} = a number")
        limits[limit] = int(text)
    return ApiKey(name, rest[0], "admin" if role == "admin" else "user", until, Limits(**limits))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the commands that change the file, which is replaced: so the lock is on its directory."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
