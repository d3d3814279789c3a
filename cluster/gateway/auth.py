"""Who asks: by API key where the gateway has keys, else by what the caller says of itself."""

from actors.base.errors import InvalidArgument, PermissionDenied, Unauthenticated
from cluster.gateway.api_keys import ApiKeys, Changed
from cluster.gateway.caller import Caller
from cluster.gateway.config import GatewayConfig

TENANT_CHARS = 128


LOOPBACK = ("localhost", "::1")


def check_admin(caller: Caller) -> None:
    """Raises PermissionDenied for a caller who may not change what is served."""
    if not caller.admin:
        raise PermissionDenied(
            "this is for administrators: callers whose key has the role admin, or, where the gateway asks for no keys, "
            "those of a gateway that listens on this machine alone"
        )


class Gate:
    """Turns a request's `Authorization` and its claimed tenant into a Caller; HTTP and gRPC share it."""

    def __init__(self, config: GatewayConfig, changed: Changed) -> None:
        """`changed` hears of keys that come and go. Raises InvalidArgument where the key file cannot be read."""
        self._alone = config.host in LOOPBACK or config.host.startswith("127.")
        self._keys = ApiKeys(config.api_keys_file, changed) if config.api_keys_file is not None else None

    def admit(self, authorization: str | None, tenant: str | None) -> Caller:
        """The caller. Raises Unauthenticated for a missing or wrong key, PermissionDenied for another's tenant.

        authorization: "Bearer KEY". tenant: what the caller names as its tenant; with keys, the key decides.
        """
        if tenant is not None and (len(tenant) > TENANT_CHARS or not tenant.isprintable()):
            raise InvalidArgument(
                f"the tenant has {len(tenant)} characters; accepted are up to {TENANT_CHARS} printable ones",
                param="X-Russet-Tenant",
            )
        if self._keys is None:
            return Caller(tenant or "", admin=self._alone)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("this gateway wants an API key: send `Authorization: Bearer KEY`")
        found = self._keys.check(key.strip())
        if tenant not in (None, "", found.name):
            raise PermissionDenied(
                f"this key belongs to {found.name}, not to the tenant named", param="X-Russet-Tenant"
            )
        return Caller(found.name, found.role == "admin", found.limits)
