"""Who may speak: constant-time comparison of secrets, and TLS between nodes."""

import hmac
from dataclasses import dataclass
from pathlib import Path

import grpc

from actors.base.errors import InvalidArgument


def equal(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


@dataclass(frozen=True)
class Security:
    """Mutual TLS: this node's certificate and key, and the authority that signs all nodes' (PEM files)."""

    certificate: Path
    key: Path
    authority: Path

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials that show this node's certificate. Raises InvalidArgument where a file is missing."""
        return grpc.ssl_channel_credentials(_read(self.authority), _read(self.key), _read(self.certificate))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that demand a certificate of the caller. Raises InvalidArgument where a file is missing."""
        pair = (_read(self.key), _read(self.certificate))
        return grpc.ssl_server_credentials([pair], _read(self.authority), require_client_auth=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from None
