"""Passages in the prompt: the same for the same chunks, whatever was asked, and nothing but them is added."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.recall.passages import block, in_order, with_system
from protos.gen.documents_pb2 import Chunk
from protos.gen.inference_pb2 import ChatRequest, Message

CHUNKS = st.lists(
    st.builds(
        lambda file, start, score: Chunk(
            file_id=file, file_name=f"{file}.txt", start=start, end=start + 4, text=f"{file} at {start}", score=score
        ),
        st.sampled_from("abc"),
        st.integers(0, 9),
        st.floats(0, 1),
    ),
    unique_by=lambda chunk: (chunk.file_id, chunk.start),
)
MESSAGES = st.lists(
    st.builds(
        lambda role, content: Message(role=role, content=content),
        st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        st.text(max_size=9),
    ),
    min_size=1,
    max_size=5,
)


@given(chunks=CHUNKS, scores=st.lists(st.floats(0, 1), min_size=40, max_size=40))
def test_how_well_they_match_does_not_change_the_prompt(chunks: list[Chunk], scores: list[float]):
    first = block(in_order(chunks))
    for chunk, score in zip(chunks, scores, strict=False):
        chunk.score = score
    assert block(in_order(sorted(chunks, key=lambda chunk: -chunk.score))) == first


@given(chunks=CHUNKS)
def test_who_shares_the_first_chunks_shares_their_text(chunks: list[Chunk]):
    ordered = in_order(chunks)
    whole = block(ordered)
    for count in range(1, len(ordered)):
        assert whole.startswith(block(ordered[:count]))


@given(messages=MESSAGES)
def test_the_conversation_stays_as_it_was(messages: list[Message]):
    request = ChatRequest(messages=messages)
    prompt = with_system(request, "passages")
    assert list(request.messages) == messages
    first, *rest = prompt.messages
    if messages[0].role in ("system", "developer"):
        assert first.content == "\n\n".join(filter(None, [messages[0].content, "passages"]))
        assert (first.role, rest) == (messages[0].role, messages[1:])
    else:
        assert (first, rest) == (Message(role="system", content="passages"), messages)
