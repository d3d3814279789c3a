"""The cluster key, which seals what is stored."""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from actors.base.errors import InvalidArgument

KEY_BYTES = 32
NONCE_BYTES = 12
ID_BYTES = 4
SEAL_BYTES = ID_BYTES + NONCE_BYTES + 16
"""By how much sealed data is longer: key id, nonce and tag."""


class Keyring:
    """AES-256-GCM under the cluster key. The key file holds base64 keys, one a line; the last seals, all open.

    Sealed: 4 bytes of key id, 12 of nonce, ciphertext and tag. `context` is authenticated and must be given again.
    """

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self._ciphers = {name: AESGCM(key) for name, key in self._keys.items()}
        self._newest = _key_id(keys[-1])

    @classmethod
    def load_or_create(cls, path: Path) -> "Keyring":
        """The keys in `path`; a new file with mode 0600 where there is none. Raises InvalidArgument otherwise."""
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> "Keyring":
        """The keys in `path`, which nobody but its owner may read."""
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise InvalidArgument(f"key file {path} has mode {mode:04o}; others could read it: chmod 600 {path}")
        try:
            keys = [base64.b64decode(line, validate=True) for line in path.read_text().split()]
        except ValueError:
            keys = []
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise InvalidArgument(f"key file {path}: expected one or more base64 keys of {KEY_BYTES} bytes, one a line")
        return cls(keys)

    def sign(self, data: bytes, context: bytes) -> bytes:
        """4 bytes of key id, then HMAC-SHA256 under a key that follows from the newest one."""
        return self._newest + _mac(self._keys[self._newest], data, context)

    def verify(self, signature: bytes, data: bytes, context: bytes) -> bool | None:
        """Whether `sign` made it of `data` and `context`; None where its key is not, or no longer, in the key file."""
        key = self._keys.get(signature[:ID_BYTES])
        return None if key is None else hmac.compare_digest(signature[ID_BYTES:], _mac(key, data, context))

    def seal(self, data: bytes | memoryview, context: bytes) -> bytes:
        """Encrypt and authenticate."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return self._newest + nonce + self._ciphers[self._newest].encrypt(nonce, data, context)

    def open(self, sealed: bytes | memoryview, context: bytes) -> bytes:
        """What was sealed with this `context`. Raises InvalidArgument where key, context or data are others."""
        cipher = self._ciphers.get(bytes(sealed[:ID_BYTES]))
        if cipher is None:
            raise InvalidArgument("sealed with a key that is not in the cluster's key file")
        body = sealed[ID_BYTES:]
        try:
            return cipher.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise InvalidArgument("sealed data was changed, or belongs to another owner") from None

    @property
    def newest(self) -> str:
        """Id of the key that seals."""
        return self._newest.hex()

    def knows(self, sealed: bytes) -> bool:
        """Whether its key is in the key file."""
        return sealed[:ID_BYTES] in self._ciphers

    def renewed(self, sealed: bytes, context: bytes) -> bytes | None:
        """The same under the newest key; None where it is already. Raises InvalidArgument as `open` does."""
        return None if sealed[:ID_BYTES] == self._newest else self.seal(self.open(sealed, context), context)


def key_ids(path: Path) -> list[str]:
    """Ids of the keys in a key file; the last seals."""
    Keyring.load(path)
    return [_key_id(base64.b64decode(line)).hex() for line in path.read_text().split()]


def add_key(path: Path) -> None:
    """Add a new key, which seals from the next start on; those that are there go on opening."""
    Keyring.load(path)
    _replace(path, path.read_bytes().rstrip() + b"\n" + base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")


def drop_old_keys(path: Path) -> int:
    """Keep the newest key alone; how many went. What only they open is then closed for good."""
    Keyring.load(path)
    *old, newest = path.read_bytes().split()
    _replace(path, newest + b"\n")
    return len(old)


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _create(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all; one that another process made meanwhile stays."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _mac(key: bytes, data: bytes, context: bytes) -> bytes:
    # Not the sealing key itself: what signs and what seals must not be each other's.
    own = hashlib.sha256(b"russet signing key\0" + key).digest()
    return hmac.digest(own, b"%d\0" % len(context) + context + data, "sha256")


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"russet key id\0" + key).digest()[:ID_BYTES]
