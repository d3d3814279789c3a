"""Retrieved chunks as a part of the prompt, in a form and order that prompts share.

They stand at the end of the leading system message, before the conversation, by file and place and not by how well they
match: requests that retrieve the same chunks begin with the same tokens, whatever they ask, and the prefix cache has
them. Requests that share only the first chunks share those.

    |-- system --|-- chunk a:0 --|-- chunk a:3 --|-- chunk b:1 --|-- conversation --|
    |------------- the same for every request that retrieves these -------------|
"""

from collections.abc import Iterable, Sequence

from protos.gen import documents_pb2, inference_pb2, memory_pb2

INTRODUCTION = "Passages that may help to answer:"
EPISODES = "From earlier conversations:"
PROCEDURES = "Questions like this one, with answers that proved right:"
EPISODE_CHARS = 600
"""Of a turn of one."""


def in_order(chunks: Iterable[documents_pb2.Chunk]) -> list[documents_pb2.Chunk]:
    """By file and place in it."""
    return sorted(chunks, key=lambda chunk: (chunk.file_id, chunk.start, chunk.end, chunk.store_id))


def without_texts(told: inference_pb2.Retrieval | None) -> inference_pb2.Retrieval | None:
    """The same, of whose citations clients read the texts in the files."""
    for citation in told.citations if told is not None else ():
        citation.ClearField("text")
    return told


def block(chunks: Sequence[documents_pb2.Chunk]) -> str:
    """The chunks as text, each with the number that its citation has."""
    passages = [f"[{number}] {chunk.file_name}\n{chunk.text}" for number, chunk in enumerate(chunks, 1)]
    return "\n\n".join([INTRODUCTION, *passages])


def episodes_block(episodes: Sequence[memory_pb2.Session]) -> str:
    """What was said in earlier conversations: of each the last question and its answer."""
    return "\n\n".join([EPISODES, *map(episode_text, episodes)])


def episode_text(session: memory_pb2.Session) -> str:
    """One of them."""
    said = [f"{turn.role}: {turn.content[:EPISODE_CHARS]}" for turn in session.turns if turn.content]
    return "\n".join([each for each in said if each.startswith(("user: ", "assistant: "))])


def procedures_block(procedures: Sequence[memory_pb2.Procedure]) -> str:
    """What answered questions like this one before."""
    return "\n\n".join([PROCEDURES, *map(procedure_text, procedures)])


def procedure_text(procedure: memory_pb2.Procedure) -> str:
    """One of them."""
    return f"question: {procedure.question}\nanswer: {procedure.answer}"


def with_system(request: inference_pb2.ChatRequest, text: str) -> inference_pb2.ChatRequest:
    """The request with `text` at the end of its first system message, or as that where it has none."""
    prompt = inference_pb2.ChatRequest()
    prompt.CopyFrom(request)
    first = prompt.messages[0]
    if first.role in ("system", "developer"):
        first.content = f"{first.content}\n\n{text}" if first.content else text
        return prompt
    del prompt.messages[:]
    prompt.messages.add(role="system", content=text)
    prompt.messages.extend(request.messages)
    return prompt
