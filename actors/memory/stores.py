"""Which store keeps the collections, and which collections there are."""

from typing import Literal, NamedTuple

from actors.base.errors import InvalidArgument
from actors.memory import chain, graph_nodes, patterns, policies, procedures, sessions
from actors.memory.config import MemoryConfig
from actors.memory.documents import sealed
from actors.memory.edge import EdgeStore
from actors.memory.store import Schema, Store

Kind = Literal["embedded", "server"]


class Schemas(NamedTuple):
    """Every collection that memory keeps."""

    session: Schema
    witness: Schema
    policy: Schema
    patterns: Schema
    documents: Schema
    graph: Schema
    procedures: Schema


def schemas(width: int, embedder: str) -> Schemas:
    """The collections of vectors of `width` from `embedder`."""
    return Schemas(
        session=Schema("session", width, embedder, sessions.KEYWORDS, sessions.INTEGERS, searched=False),
        witness=Schema("witness", width, embedder, chain.KEYWORDS, chain.INTEGERS, chain.FLOATS),
        policy=Schema("policy", width, embedder, policies.KEYWORDS, policies.INTEGERS, at_hand=True),
        patterns=Schema("patterns", width, embedder, patterns.KEYWORDS),
        documents=Schema("documents", width, embedder, sealed.KEYWORDS),
        graph=Schema("graph", width, embedder, graph_nodes.KEYWORDS, graph_nodes.INTEGERS),
        procedures=Schema("procedures", width, embedder, procedures.KEYWORDS, procedures.INTEGERS),
    )


def open_store(config: MemoryConfig, kind: Kind) -> Store:
    """Memory's store of that kind. Raises InvalidArgument where its settings are missing or cannot be read."""
    if kind == "embedded":
        if config.directory is None:
            raise InvalidArgument("memory.directory is not set; accepted: a path", param="memory.directory")
        return EdgeStore(config.directory)
    if config.server_url is None:
        raise InvalidArgument(
            "memory.server_url is not set; accepted: a Qdrant server's URL, as https://host:6333",
            param="memory.server_url",
        )
    # Its client takes a second and 40 MiB to import, which only its users should pay.
    from actors.memory.qdrant_server import QdrantServer

    return QdrantServer.connect(config)
