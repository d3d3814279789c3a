"""Who may speak: constant-time comparison of secrets, mutual TLS between nodes, and TLS towards clients.

Certificates are files that are read again when they change: new connections show the newest, open ones go on.
"""

import hmac
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc

from actors.base.errors import InvalidArgument, Unauthenticated

log = logging.getLogger(__name__)

NODE = "node.russet"
"""DNS name that an actor's certificate bears beside its node's: a role, since nodes' addresses change and trust does
not. Either side of a connection demands it of the other."""
_NAMES = "x509_subject_alternative_name"
_KEY_END = b"-----END PRIVATE KEY-----\n"

Version = tuple[tuple[int, int, int], ...]
"""Of files: when each was written, its inode and its size."""


def equal(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


class ServerTls(Protocol):
    """How a TCP listener is secured."""

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files. Raises InvalidArgument where they are missing or wrong."""
        ...

    def check(self, context: Any) -> None:
        """Raises Unauthenticated for a caller of a gRPC call whom this listener does not serve."""
        ...


@dataclass(frozen=True)
class Security:
    """Mutual TLS between actors: this node's key with its certificates, and the authorities trusted (PEM files)."""

    identity: Path
    """Key (PKCS 8), its certificate, and those between it and an authority: one file, so that it changes whole."""
    authorities: Path

    def version(self) -> Version:
        """Another where a file was replaced."""
        return _version(self.identity, self.authorities)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials that show this node's certificate. Raises InvalidArgument where a file is missing."""
        key, chain = self._identity()
        return grpc.ssl_channel_credentials(_read(self.authorities), key, chain)

    @property
    def channel_options(self) -> tuple[tuple[str, str], ...]:
        """What a channel checks of the other side: that it is a node."""
        return (("grpc.ssl_target_name_override", NODE),)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that demand a certificate of the caller. Raises InvalidArgument where a file is missing."""

        def configuration() -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration([self._identity()], _read(self.authorities))

        return _followed(configuration, self.version, require_client=True)

    def check(self, context: Any) -> None:
        """Raises Unauthenticated for a caller whose certificate is no node's. Unix sockets have owners instead."""
        if context.peer().startswith("unix:"):
            return
        if NODE.encode() not in context.auth_context().get(_NAMES, ()):
            raise Unauthenticated(f"the caller's certificate does not name {NODE}; only nodes may call actors")

    def _identity(self) -> tuple[bytes, bytes]:
        key, end, chain = _read(self.identity).partition(_KEY_END)
        if not end or b"BEGIN CERTIFICATE" not in chain:
            raise InvalidArgument(f"{self.identity}: expected a private key (PKCS 8), then its certificate, in PEM")
        return key + end, chain


@dataclass(frozen=True)
class PublicTls:
    """TLS towards clients: certificate with its chain, key, and the authority that clients' certificates must be of."""

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def version(self) -> Version:
        """Another where a file was replaced."""
        return _version(*filter(None, (self.certificate, self.key, self.client_authority)))

    def server_credentials(self) -> grpc.ServerCredentials:
        """For gRPC. Raises InvalidArgument where a file is missing, or key and certificate are not of each other."""

        def configuration() -> grpc.ServerCertificateConfiguration:
            self.context()
            pair = (_read(self.key), _read(self.certificate))
            authority = _read(self.client_authority) if self.client_authority else None
            return grpc.ssl_server_certificate_configuration([pair], authority)

        return _followed(configuration, self.version, require_client=self.client_authority is not None)

    def check(self, context: Any) -> None:
        """Whoever came through the handshake may call; keys are the gateway's."""

    def context(self) -> ssl.SSLContext:
        """As the files are now, for TLS 1.2 and newer. Raises InvalidArgument as server_credentials does."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            made.load_cert_chain(self.certificate, self.key)
            if self.client_authority is not None:
                made.load_verify_locations(self.client_authority)
                made.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(map(str, filter(None, (self.certificate, self.key, self.client_authority))))
            raise InvalidArgument(f"cannot serve TLS with {files}: {error.strerror or error}") from None
        return made

    def followed_context(self) -> ssl.SSLContext:
        """A context that hands each new connection the files as they are then, or as they last were whole."""
        front, newest, seen = self.context(), self.context(), self.version()

        def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            nonlocal newest, seen
            if (version := self.version()) != seen:
                try:
                    newest, seen = self.context(), version
                except InvalidArgument as error:
                    log.warning("still serving the earlier certificate: %s", error)
            connection.context = newest

        front.sni_callback = choose
        return front


_own: Security | None = None


def adopt(security: Security | None) -> None:
    """Set what every channel of this process shows over TCP: a process belongs to one node of one cluster."""
    global _own
    _own = security


def own() -> Security | None:
    """What `adopt` was given last; None is plain text."""
    return _own


def _followed(
    configuration: Callable[[], grpc.ServerCertificateConfiguration],
    version: Callable[[], Version],
    *,
    require_client: bool,
) -> grpc.ServerCredentials:
    """Credentials that ask for each new connection whether the files changed."""
    seen = version()
    newest = configuration()

    def fetch() -> grpc.ServerCertificateConfiguration:
        nonlocal newest, seen
        if (now := version()) != seen:
            try:
                newest, seen = configuration(), now
            except InvalidArgument as error:
                log.warning("still serving the earlier certificate: %s", error)
        return newest

    return grpc.dynamic_ssl_server_credentials(newest, fetch, require_client_authentication=require_client)


def _version(*paths: Path) -> Version:
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0, 0))  # between a removal and what follows it: as good as changed
        else:
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from None
