"""Certificate authorities of tests' own, that sign whatever is asked of them."""

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from actors.base.security import NODE, Security


class Maker:
    """An authority of a test's own."""

    def __init__(self, name: str) -> None:
        self.name, self.key = name, ec.generate_private_key(ec.SECP256R1())
        self.pem = self._certificate(name, self.key, authority=True, hours=1)

    def _certificate(self, name, key, *, authority, hours, names=()) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        common = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, self.name)]
        ends = now + datetime.timedelta(hours=hours)
        begins = min(now, ends) - datetime.timedelta(minutes=1)
        builder = x509.CertificateBuilder(
            common[1], common[0], key.public_key(), x509.random_serial_number(), begins, ends
        ).add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def pair(self, *names: str, hours: float = 1) -> tuple[bytes, bytes]:
        """Key and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        made = self._certificate("leaf", key, authority=False, hours=hours, names=names)
        return key.private_bytes(serialization.Encoding.PEM, form, plain), made

    def node(self, directory: Path, role: str = NODE, hours: float = 1) -> Security:
        """A node's files."""
        directory.mkdir(exist_ok=True)
        replace(directory / "node.pem", b"".join(self.pair(role, hours=hours)))
        replace(directory / "ca.pem", self.pem)
        return Security(directory / "node.pem", directory / "ca.pem")


def replace(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(content)
    os.replace(draft, path)
