"""The cluster's own certificate authority: it lives on the head node, signs nodes' certificates, and can be replaced.

    authority/0001.key, 0001.pem               the first authority: its key (mode 0600) and self-signed certificate
    authority/0002.key, 0002.pem, 0002.cross   the next, and its certificate signed by the one before

The newest signs. Its leaves carry the cross certificate, so that nodes which know only the older authority accept them;
all that are there are trusted, so that leaves of the older one are still accepted. `drop` ends the overlap.
"""

import contextlib
import datetime
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from actors.base.errors import Conflict, InvalidArgument, NotFound
from actors.base.files import write_whole
from actors.base.security import NODE

AUTHORITY_DAYS = 3650
BACKDATED = datetime.timedelta(minutes=5)
"""By how much clocks of nodes may differ."""
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""A common name has 64 characters at most."""


class Signed(NamedTuple):
    """What a node gets: its certificate with those above it, and the authorities that it shall trust. PEM."""

    chain: bytes
    authorities: bytes


@dataclass(frozen=True)
class Issued:
    """A leaf that the authority signed last for a node."""

    node: str
    serial: str
    expires: datetime.datetime
    authority: str


class Authority:
    """The authority in `directory`, which is of mode 0700. Processes of one machine may use it at the same time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def exists(self) -> bool:
        """Whether this machine holds it: nodes other than the head do not."""
        return bool(self._keys())

    def create(self) -> bool:
        """Make it; False where it is there already."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            if self.exists:
                return False
            self._add()
            return True

    def rotate(self) -> str:
        """A new authority, signed by the one before, which stays trusted; its name. Raises NotFound, Conflict."""
        with self._locked():
            self._require()
            if len(self._keys()) > 1:
                raise Conflict(f"authority {self._keys()[0].stem} is trusted too; `russet certs drop` ends that first")
            return self._add()

    def drop(self) -> list[str]:
        """Trust the newest alone; names of those that went.

        Raises Conflict where a leaf of theirs has not expired: its node would be shut out.
        """
        with self._locked():
            self._require()
            *old, newest = self._keys()
            names, now = [key.stem for key in old], datetime.datetime.now(datetime.UTC)
            for leaf in self._issued():
                if leaf.authority in names and leaf.expires > now:
                    raise Conflict(
                        f"the certificate of {leaf.node} is of authority {leaf.authority}; `russet certs rotate` "
                        f"first, or wait until {leaf.expires:%Y-%m-%d %H:%M} UTC"
                    )
            for key in old:
                for suffix in (".key", ".pem", ".cross"):
                    key.with_suffix(suffix).unlink(missing_ok=True)
            newest.with_suffix(".cross").unlink(missing_ok=True)
            return names

    def sign(self, request: bytes, node: str, hours: float) -> Signed:
        """A leaf for the key of `request` (PEM), named for `node` whatever the request says, good for `hours`.

        Raises NotFound where the authority is not here, InvalidArgument for a request that its key did not sign.
        """
        check_node(node)
        try:
            asked = x509.load_pem_x509_csr(request)
        except ValueError as error:
            raise InvalidArgument(f"the certificate request of {node} cannot be read: {error}") from None
        public = asked.public_key()
        if not asked.is_signature_valid or not isinstance(public, ec.EllipticCurvePublicKey):
            raise InvalidArgument(f"the certificate request of {node} is not signed by its key, or by none on a curve")
        with self._locked():
            self._require()
            key, certificate = self._newest()
            now = datetime.datetime.now(datetime.UTC)
            expires = min(now + datetime.timedelta(hours=hours), certificate.not_valid_after_utc)
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            leaf = (
                _builder(_name(node), certificate.subject, public, now, expires)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(_usage(signs=False), critical=True)
                .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
                .add_extension(x509.SubjectAlternativeName([x509.DNSName(NODE)]), critical=False)
                .sign(key, hashes.SHA256())
            )
            name = self._keys()[-1].stem
            rest = [issued for issued in self._issued() if issued.node != node]
            self._write_issued([*rest, Issued(node, f"{leaf.serial_number:x}", expires, name)])
            cross = self._keys()[-1].with_suffix(".cross")
            chain = _pem(leaf) + (cross.read_bytes() if cross.exists() else b"")
            return Signed(chain, self._trusted())

    def issued(self) -> list[Issued]:
        """The last leaf of each node, by name."""
        return sorted(self._issued(), key=lambda leaf: leaf.node)

    def authorities(self) -> list[tuple[str, x509.Certificate]]:
        """Name and certificate of each that is trusted, oldest first; the last signs."""
        return [(key.stem, _certificate(key.with_suffix(".pem"))) for key in self._keys()]

    def _add(self) -> str:
        """Make the next authority; what signs its cross certificate is the newest so far."""
        keys = self._keys()
        number = int(keys[-1].stem) + 1 if keys else 1
        path = self._directory / f"{number:04}.key"
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        expires = now + datetime.timedelta(days=AUTHORITY_DAYS)
        name = _name(f"Russet authority {number}")
        own = _authority(_builder(name, name, key.public_key(), now, expires), key)
        if keys:
            old_key, old = self._newest()
            until = min(expires, old.not_valid_after_utc)
            cross = _authority(_builder(name, old.subject, key.public_key(), now, until), old_key)
            write_whole(path.with_suffix(".cross"), _pem(cross))
        write_whole(path.with_suffix(".pem"), _pem(own))
        write_whole(path, private_pem(key))  # last: what has a key is complete
        return path.stem

    def _newest(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        path = self._keys()[-1]
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key, _certificate(path.with_suffix(".pem"))

    def _trusted(self) -> bytes:
        return b"".join(key.with_suffix(".pem").read_bytes() for key in reversed(self._keys()))

    def _keys(self) -> list[Path]:
        return sorted(self._directory.glob("[0-9][0-9][0-9][0-9].key"))

    def _require(self) -> None:
        if not self.exists:
            raise NotFound(
                f"there is no certificate authority in {self._directory}; `russet certs init` makes it on the head node"
            )

    def _issued(self) -> list[Issued]:
        try:
            rows = json.loads((self._directory / "issued.json").read_text())
        except FileNotFoundError:
            return []
        return [Issued(**row | {"expires": datetime.datetime.fromisoformat(row["expires"])}) for row in rows]

    def _write_issued(self, leaves: list[Issued]) -> None:
        rows = [vars(leaf) | {"expires": leaf.expires.isoformat()} for leaf in leaves]
        write_whole(self._directory / "issued.json", json.dumps(rows, indent=1).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self._directory):
            yield


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Alone among this machine's processes, by a lock on `directory`. Raises NotFound where there is none."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise NotFound(f"there is no {directory}; `russet certs init` makes it, on the head node") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def check_node(name: str) -> None:
    """Refuse what cannot be a node's name, which is that of a file too."""
    if not _NODE_NAME.fullmatch(name):
        raise InvalidArgument(f"node name {name[:80]!r}: accepted are 1 to 63 letters, digits and any of . _ -")


def certificate_request(key: ec.EllipticCurvePrivateKey, node: str) -> bytes:
    """What a node sends to be signed: its public key and name, no secret. PEM."""
    check_node(node)
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(node)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key in PKCS 8, PEM, not encrypted: the file's mode protects it."""
    form, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, open_)


def _authority(builder: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(signer, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    expires: datetime.datetime,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), now - BACKDATED, expires
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())
