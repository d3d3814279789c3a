"""A node's certificate: short-lived, made before its first actor listens, renewed while actors run.

home/tls/nodes/NAME.pem  key, certificate and what is above it; mode 0600; the key never leaves the node
home/tls/ca.pem          authorities that are trusted
home/tls/authority/      the authority itself (cluster.authority), on the head node alone
"""

import asyncio
import contextlib
import datetime
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from actors.base.errors import NotFound, RussetError
from actors.base.files import write_whole
from actors.base.security import Security
from cluster.authority import Authority, Signed, certificate_request, locked, private_pem
from cluster.config import Config

log = logging.getLogger(__name__)
RENEW_SHARE = 1 / 3
"""Of a certificate's life that is left when it is renewed."""
LOOK_S = 60.0
Sign = Callable[[bytes, str, float], Signed]
"""(request, node's name, hours) -> what the authority answers."""


@dataclass(frozen=True)
class NodeCertificate:
    """The certificate of one node of the cluster whose home is `home`."""

    home: Path
    node: str
    hours: float

    @property
    def security(self) -> Security:
        """The files, as channels and servers take them."""
        return Security(self._directory / "nodes" / f"{self.node}.pem", self._directory / "ca.pem")

    @property
    def authority(self) -> Authority:
        """The authority, where this node is the head."""
        return authority_of(self.home)

    def due(self, now: datetime.datetime) -> bool:
        """Whether there is none, or at `now` less than a third of its life is left."""
        try:
            leaf = leaf_in(self.security.identity)
        except (OSError, ValueError):
            return True
        begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        return (ends - now) / (ends - begins) < RENEW_SHARE

    def ensure(self, elsewhere: Sign) -> bool:
        """Have one that is not due; whether it was made now. Blocks.

        The authority signs it where it is here, else `elsewhere` asks the head. One process of the node does it, the
        others wait. Raises RussetError where nobody signs.
        """
        with self._alone():
            if not self.due(datetime.datetime.now(datetime.UTC)):
                return False
            self._make(elsewhere)
            return True

    def renew(self, elsewhere: Sign) -> None:
        """Make a new one, however good the old one is. Running actors take it up within a second or two."""
        with self._alone():
            self._make(elsewhere)

    async def keep(self, elsewhere: Sign, look_s: float = LOOK_S) -> None:
        """Renew it whenever it is due, for as long as the process lives."""
        while True:
            # Not all processes of a node, nor all nodes, at the same moment.
            await asyncio.sleep(look_s * random.uniform(0.5, 1.5))
            try:
                if await asyncio.to_thread(self.ensure, elsewhere):
                    log.info("renewed the certificate of %s", self.node)
            except RussetError as error:
                log.warning("the certificate of %s could not be renewed: %s", self.node, error)

    @property
    def _directory(self) -> Path:
        return self.home / "tls"

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        self.security.identity.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return locked(self._directory)

    def _make(self, elsewhere: Sign) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        sign = self.authority.sign if self.authority.exists else elsewhere
        signed = sign(certificate_request(key, self.node), self.node, self.hours)
        files = self.security
        # First whom to trust: a leaf of a new authority is of use once that is known.
        write_whole(files.authorities, signed.authorities)
        write_whole(files.identity, private_pem(key) + signed.chain)


def leaf_in(path: Path) -> x509.Certificate:
    """A node's own certificate in its file. Raises OSError, and ValueError where there is none."""
    _, end, chain = path.read_bytes().rpartition(b"-----END PRIVATE KEY-----\n")
    return x509.load_pem_x509_certificate(chain if end else b"")


def authority_of(home: Path) -> Authority:
    """The authority of the cluster whose head keeps its state in `home`; it need not exist."""
    return Authority(home / "tls" / "authority")


def certificate_of(config: Config, node: str) -> NodeCertificate | None:
    """The certificate that actors on `node` show, or None where they speak in plain text."""
    wanted = config.tls.actors == "on" or (config.tls.actors == "auto" and config.ray.bind == "node")
    return NodeCertificate(config.home, node.replace(":", "-"), config.tls.leaf_hours) if wanted else None


def renew_here(home: Path, hours: float, elsewhere: Sign) -> list[str]:
    """New certificates for whatever nodes have theirs in `home`: one, or several where they are simulated; names."""
    names = [file.stem for file in sorted((home / "tls" / "nodes").glob("*.pem"))]
    for name in names:
        NodeCertificate(home, name, hours).renew(elsewhere)
    return names


def nobody(request: bytes, node: str, hours: float) -> Signed:
    """Where there is no head to ask."""
    raise NotFound(
        f"nobody here can sign a certificate for {node}; `russet certs init` makes an authority, on the head"
    )
