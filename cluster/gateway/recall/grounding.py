"""What one answer is reminded of: retrieved once, before its prompt is made, within a bounded time.

However many generations an answer is made of (choices, attempts, rounds of tools), they read the same passages.
"""

import asyncio
import time

from actors.base.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from cluster.gateway.caller import Caller
from cluster.gateway.catalog import ModelView
from cluster.gateway.config import GatewayConfig
from cluster.gateway.finished import Finished
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.recall.asked import PARAM, RESULTS
from cluster.gateway.recall.passages import block, in_order, with_system
from cluster.gateway.records import question_of
from protos.gen import documents_pb2, inference_pb2, memory_pb2
from protos.gen.documents_pb2_grpc import DocumentsStub


class Recall:
    """Begins groundings. Holds what they share."""

    def __init__(self, config: GatewayConfig, documents: DocumentsStub) -> None:
        self.timeout_s = config.retrieve_timeout_s
        self.documents = documents

    def begin(self, request: GenerateMessage, caller: Caller) -> "Grounding":
        """For an answer to this request."""
        return Grounding(self, request, caller)


class Grounding:
    """What an answer asks to be reminded of, and what was found."""

    def __init__(self, recall: Recall, asked: GenerateMessage, caller: Caller) -> None:
        self._recall = recall
        self._tenant = caller.tenant
        chat = asked if isinstance(asked, inference_pb2.ChatRequest) else inference_pb2.ChatRequest()
        self._retrieve = chat.retrieve if chat.HasField("retrieve") else None
        self._reply: documents_pb2.SearchReply | None = None
        self._chunks: list[documents_pb2.Chunk] = []
        self._asking = asyncio.Lock()

    async def find(self, request: GenerateMessage) -> float:
        """Retrieve what was asked for, by the last user turn of a conversation, once; the seconds that retrieval took
        beside embedding the question.

        Raises InvalidArgument where there is no such vector store or no user turn, Unavailable where memory is away or
        too slow: what was asked for is not left out in silence.
        """
        if self._retrieve is None:
            return 0.0
        async with self._asking:
            if self._reply is not None:
                return 0.0
            began = time.monotonic()
            self._reply = await self._search(self._retrieve, question_of(request))
            self._chunks = in_order(self._reply.chunks)
            return max(0.0, time.monotonic() - began - self._reply.embedding_ms / 1e3)

    def prompt(self, request: GenerateMessage, view: ModelView) -> GenerateMessage:
        """The conversation as the model reads it: with what was found."""
        if not self._chunks or not isinstance(request, inference_pb2.ChatRequest):
            return request
        return with_system(request, block(self._chunks))

    @property
    def told(self) -> inference_pb2.Retrieval | None:
        """What an answer says of it; None where nothing was asked for, or not yet found."""
        if self._reply is None:
            return None
        told = inference_pb2.Retrieval(
            embedding_ms=self._reply.embedding_ms, retrieval_ms=self._reply.retrieval_ms, citations=self._chunks
        )
        for citation in told.citations:
            citation.ClearField("text")
        return told

    def noted(self, finished: Finished) -> Finished:
        """The record of a generation, with what was found for it, best first."""
        if self._reply is not None:
            finished.embedding, finished.embedding_ms = list(self._reply.embedding), self._reply.embedding_ms
            finished.documents = [
                memory_pb2.WitnessDocument(id=each.file_id, store=each.store_id, chunk=each.index, score=each.score)
                for each in self._reply.chunks
            ]
        return finished

    async def _search(self, asked: inference_pb2.Retrieve, question: str) -> documents_pb2.SearchReply:
        if not question.strip():
            raise InvalidArgument(
                f"{PARAM} looks for what the last user message asks, and there is none with a text; leave it out",
                param=PARAM,
            )
        request = documents_pb2.SearchRequest(
            tenant=self._tenant,
            store_ids=asked.store_ids,
            query=question,
            limit=asked.limit or RESULTS,
            score_threshold=asked.score_threshold,
        )
        try:
            return await self._recall.documents.Search(request, timeout=self._recall.timeout_s)
        except NotFound as error:
            raise InvalidArgument(f"{PARAM}: {error.message}", param=f"{PARAM}.vector_store_ids") from error
        except (Unavailable, DeadlineExceeded) as error:
            raise Unavailable(
                f"{PARAM} cannot be done now: {error.message}; come back, or leave it out", retry_after_s=1.0
            ) from error
