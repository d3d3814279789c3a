"""What one answer is reminded of: retrieved once, before its prompt is made, within a bounded time.

However many generations an answer is made of (choices, attempts, rounds of tools), they read the same passages.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from actors.base.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from actors.base.passages import node_of
from cluster.gateway.caller import Caller
from cluster.gateway.catalog import ModelView
from cluster.gateway.config import GatewayConfig
from cluster.gateway.errors import ContextTooLong
from cluster.gateway.finished import Finished
from cluster.gateway.prompt import GenerateMessage, ids_of
from cluster.gateway.recall.asked import CONTEXT, PARAM, RESULTS, kinds_of
from cluster.gateway.recall.context import MESSAGE_TOKENS, Piece, decayed, exchange_pieces, pack, parts_of
from cluster.gateway.recall.passages import (
    block,
    episode_text,
    episodes_block,
    in_order,
    procedure_text,
    procedures_block,
    with_system,
)
from cluster.gateway.recall.used import used_passages
from cluster.gateway.records import EMBED_CHARS, question_of
from protos.gen import documents_pb2, inference_pb2, memory_pb2
from protos.gen.documents_pb2_grpc import DocumentsStub
from protos.gen.memory_pb2_grpc import MemoryStub

EPISODES = 8
"""Earlier sessions that may stand in a prompt."""
EPISODE_HALF_LIFE_MS = 7 * 86_400_000.0
PROCEDURES, PROCEDURE_COSINE = 8, 0.5
"""Answers that may stand in a prompt, and the least cosine of their questions: one to another question misleads."""
PROCEDURE_HALF_LIFE_MS = 30 * 86_400_000.0
USES_OF_USE = 20
"""So many prompts make a procedure much used."""
TURNS_OF_USE = 20
"""So many turns make a session much used."""


class Recall:
    """Begins groundings. Holds what they share."""

    def __init__(self, config: GatewayConfig, documents: DocumentsStub, memory: MemoryStub) -> None:
        self.timeout_s = config.retrieve_timeout_s
        self.documents = documents
        self.memory = memory

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
        self._context = chat.context if chat.HasField("context") else None
        self._kinds = kinds_of(chat) if self._context is not None else ()
        self._reply = documents_pb2.SearchReply()
        self._found = False
        self._chunks: list[documents_pb2.Chunk] = []
        self._episodes: list[memory_pb2.ScoredSession] = []
        self._procedures: list[memory_pb2.ScoredProcedure] = []
        self._repeated: list[str] = []
        """Ids of those that stand in the prompt."""
        self._cited: list[documents_pb2.Chunk] = []
        """Those that stand in the prompt."""
        self._packing: inference_pb2.Packing | None = None
        self._asking = asyncio.Lock()
        self._now_ms = time.time() * 1e3

    async def find(self, request: GenerateMessage) -> float:
        """Retrieve what was asked for, by the last user turn of a conversation, once; the seconds that retrieval took
        beside embedding the question.

        Raises InvalidArgument where there is no such vector store or no user turn, Unavailable where memory is away or
        too slow: what was asked for is not left out in silence.
        """
        if self._retrieve is None and not {"episodic", "procedural"} & set(self._kinds):
            return 0.0
        async with self._asking:
            if self._found:
                return 0.0
            question = question_of(request)
            if not question.strip():
                param = PARAM if self._retrieve is not None else CONTEXT
                raise InvalidArgument(
                    f"{param} looks for what the last user message asks, and there is none with a text; leave it out",
                    param=param,
                )
            began = time.monotonic()
            try:
                if self._retrieve is not None:
                    self._reply = await self._search(self._retrieve, question)
                if "episodic" in self._kinds:
                    self._episodes = await self._earlier(question, request.session_id)
                if "procedural" in self._kinds:
                    self._procedures = await self._worked(question)
            except NotFound as error:
                raise InvalidArgument(f"{PARAM}: {error.message}", param=f"{PARAM}.vector_store_ids") from error
            except (Unavailable, DeadlineExceeded) as error:
                param = PARAM if self._retrieve is not None else CONTEXT
                raise Unavailable(
                    f"{param} cannot be done now: {error.message}; come back, or leave it out", retry_after_s=1.0
                ) from error
            self._chunks = self._cited = in_order(self._reply.chunks)
            self._found = True
            return max(0.0, time.monotonic() - began - self._reply.embedding_ms / 1e3)

    async def prompt(self, request: GenerateMessage, view: ModelView, known: Sequence[int]) -> GenerateMessage:
        """The conversation as the model reads it: with what was found, and where asked for, packed.

        `known`: the session so far as tokens. Raises ContextTooLong where it cannot be packed.
        """
        if not isinstance(request, inference_pb2.ChatRequest):
            return request
        if self._context is not None:
            return await asyncio.to_thread(self._packed, request, view, known, self._context.budget_tokens)
        return with_system(request, block(self._chunks)) if self._chunks else request

    @property
    def told(self) -> inference_pb2.Retrieval | None:
        """What was found and stands in the prompt; None where nothing was asked for, or not yet found."""
        if self._packing is None and (self._retrieve is None or not self._found):
            return None
        reply = self._reply
        return inference_pb2.Retrieval(
            embedding_ms=reply.embedding_ms,
            retrieval_ms=reply.retrieval_ms,
            citations=self._cited,
            packing=self._packing,
        )

    def noted(self, finished: Finished) -> Finished:
        """The record of a generation, with what was found for it, best first."""
        if self._reply.embedding:
            finished.embedding, finished.embedding_ms = list(self._reply.embedding), self._reply.embedding_ms
            finished.documents = [
                memory_pb2.WitnessDocument(id=each.file_id, store=each.store_id, chunk=each.index, score=each.score)
                for each in self._reply.chunks
            ]
        finished.procedures = self._repeated
        finished.passages = [node_of(chunk) for chunk in self._cited]
        used = used_passages(finished.text, finished.question, [chunk.text for chunk in self._cited])
        finished.passages_used = [finished.passages[at] for at in used]
        return finished

    def _packed(
        self, request: inference_pb2.ChatRequest, view: ModelView, known: Sequence[int], asked: int
    ) -> inference_pb2.ChatRequest:
        parts, question = parts_of(request.messages), question_of(request)
        exchanges = parts.exchanges if "working" in self._kinds else []

        def tokens(text: str) -> int:
            return len(view.vocabulary.encode(text, add_bos=False))

        pieces = [self._chunk_piece(chunk, tokens) for chunk in self._chunks]
        pieces += [self._episode_piece(each, tokens) for each in self._episodes]
        pieces += [self._procedure_piece(each, tokens) for each in self._procedures]
        episodes_at = len(self._chunks)
        procedures_at = episodes_at + len(self._episodes)
        exchanges_at = len(pieces)
        pieces += exchange_pieces(exchanges, question, tokens)

        def made(taken: Sequence[int]) -> inference_pb2.ChatRequest:
            chunks = [self._chunks[at] for at in taken if at < episodes_at]
            episodes = [self._episodes[at - episodes_at].session for at in taken if episodes_at <= at < procedures_at]
            worked = [each.procedure for at, each in enumerate(self._procedures, procedures_at) if at in taken]
            turns = [message for at in taken if at >= exchanges_at for message in exchanges[at - exchanges_at]]
            prompt = inference_pb2.ChatRequest()
            prompt.CopyFrom(request)
            del prompt.messages[:]
            prompt.messages.extend([*parts.opening, *turns, *parts.ending])
            texts = [
                *([block(chunks)] if chunks else []),
                *([episodes_block(episodes)] if episodes else []),
                *([procedures_block(worked)] if worked else []),
            ]
            return with_system(prompt, "\n\n".join(texts)) if texts else prompt

        def count(taken: Sequence[int]) -> int:
            return len(ids_of(made(taken), view, known))

        context = view.model.context_length
        most = context - (request.decoding.max_tokens or context // 4)
        budget = min(asked or most, most)
        packed = pack(pieces, budget, count)
        if packed is None:
            raise ContextTooLong(
                f"the system messages and the last turn alone have {count([])} tokens; {CONTEXT}.budget_tokens "
                f"and the model's context leave {budget} for the prompt",
                param=f"{CONTEXT}.budget_tokens",
            )
        taken = set(packed.taken)
        self._cited = [self._chunks[at] for at in packed.taken if at < episodes_at]
        self._repeated = [pieces[at].id for at in packed.taken if pieces[at].kind == "procedural"]
        items = [
            inference_pb2.PackedItem(
                kind=piece.kind, id=piece.id, tokens=piece.tokens, priority=piece.priority, taken=at in taken
            )
            for at, piece in enumerate(pieces)
        ]
        self._packing = inference_pb2.Packing(budget_tokens=budget, prompt_tokens=packed.tokens, items=items)
        return made(packed.taken)

    def _chunk_piece(self, chunk: documents_pb2.Chunk, tokens: Callable[[str], int]) -> Piece:
        size = tokens(f"{chunk.file_name} {chunk.text}") + MESSAGE_TOKENS
        relevance = min(max(chunk.score, 0.0), 1.0)
        return Piece("semantic", f"{chunk.file_id}#{chunk.index}", size, relevance, 0.5, 0.5, 0.0)

    def _episode_piece(self, episode: memory_pb2.ScoredSession, tokens: Callable[[str], int]) -> Piece:
        session = episode.session
        return Piece(
            "episodic",
            session.session_id,
            tokens(episode_text(session)) + MESSAGE_TOKENS,
            relevance=min(max(episode.similarity, 0.0), 1.0),
            recency=decayed(self._now_ms - session.last_active_ms, EPISODE_HALF_LIFE_MS),
            importance=0.5,
            use=min(session.turn_count / TURNS_OF_USE, 1.0),
        )

    def _procedure_piece(self, worked: memory_pb2.ScoredProcedure, tokens: Callable[[str], int]) -> Piece:
        procedure = worked.procedure
        return Piece(
            "procedural",
            procedure.id,
            tokens(procedure_text(procedure)) + MESSAGE_TOKENS,
            relevance=min(max(worked.similarity, 0.0), 1.0),
            recency=decayed(self._now_ms - max(procedure.created_ms, procedure.last_used_ms), PROCEDURE_HALF_LIFE_MS),
            importance=procedure.rating,
            use=min(procedure.uses / USES_OF_USE, 1.0),
        )

    async def _worked(self, question: str) -> list[memory_pb2.ScoredProcedure]:
        """The tenant's answers to questions like this one that proved right, by id."""
        request = memory_pb2.SearchProceduresRequest(
            tenant=self._tenant,
            embedding=await self._embedded(question),
            limit=PROCEDURES,
            score_threshold=PROCEDURE_COSINE,
        )
        reply = await self._recall.memory.SearchProcedures(request, timeout=self._recall.timeout_s)
        return sorted(reply.procedures, key=lambda each: each.procedure.id)

    async def _embedded(self, question: str) -> Sequence[float]:
        """The question's vector; retrieval may have made it."""
        if not self._reply.embedding:
            began = time.monotonic()
            asked = memory_pb2.EmbedRequest(texts=[question[:EMBED_CHARS]])
            embedded = await self._recall.memory.Embed(asked, timeout=self._recall.timeout_s)
            self._reply.embedding.extend(embedded.values)
            self._reply.embedding_ms = (time.monotonic() - began) * 1e3
        return self._reply.embedding

    async def _earlier(self, question: str, session_id: str) -> list[memory_pb2.ScoredSession]:
        """The tenant's other sessions nearest to the question, by id."""
        request = memory_pb2.SearchSessionsRequest(
            tenant=self._tenant, embedding=await self._embedded(question), limit=EPISODES + 1
        )
        reply = await self._recall.memory.SearchSessions(request, timeout=self._recall.timeout_s)
        others = [each for each in reply.sessions if each.session.session_id != session_id][:EPISODES]
        told = [each for each in others if episode_text(each.session)]
        return sorted(told, key=lambda each: each.session.session_id)

    async def _search(self, asked: inference_pb2.Retrieve, question: str) -> documents_pb2.SearchReply:
        request = documents_pb2.SearchRequest(
            tenant=self._tenant,
            store_ids=asked.store_ids,
            query=question,
            limit=asked.limit or RESULTS,
            score_threshold=asked.score_threshold,
        )
        return await self._recall.documents.Search(request, timeout=self._recall.timeout_s)
