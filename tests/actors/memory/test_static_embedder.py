"""The fast embedder: what it says of texts, what it is cut to, and what is refused by name."""

import numpy as np
import pytest

from actors.base.errors import InvalidArgument
from actors.memory import static_embedder
from actors.memory.static_embedder import MODEL, StaticEmbedder
from protos.gen.memory_pb2 import EmbedRequest, StatusRequest

TEXTS = [
    "How do I bake bread at home?",
    "Simple recipe for making a loaf of bread in my oven.",
    "The stock market fell sharply today.",
    "Shares on the stock market lost much of their value.",
]


@pytest.fixture
def fast():
    package = static_embedder.package()
    if package is None:
        pytest.skip("wordllama is not installed")
    embedder = StaticEmbedder(package)
    yield embedder
    embedder.close()


@pytest.mark.parametrize("dimensions", [0, 128, 64])
async def test_paraphrases_are_closer_than_strangers_at_each_length(fast, dimensions):
    vectors, tokens = await fast.embed(TEXTS, dimensions)
    assert vectors.shape == (4, dimensions or 256)
    assert tokens > 4 * 6
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    bread, loaf, market, shares = vectors
    assert min(bread @ loaf, market @ shares) > max(bread @ market, bread @ shares, loaf @ market, loaf @ shares) + 0.1


async def test_a_text_means_the_same_in_any_company(fast):
    texts = [*TEXTS, " ", "word " * 9000, "naïve café — 北京"]
    together, tokens = await fast.embed(texts)
    alone = [await fast.embed([text]) for text in texts]
    np.testing.assert_allclose(together, np.concatenate([vectors for vectors, _ in alone]), atol=1e-6)
    assert tokens == sum(read for _, read in alone)
    assert (await fast.embed([]))[0].shape == (0, 256)


async def test_is_asked_for_by_name(opening, fast):
    async with opening() as memory:
        status = await memory.stub.Status(StatusRequest())
        assert list(status.embedders) == ["all-MiniLM-L6-v2", MODEL]
        reply = await memory.stub.Embed(EmbedRequest(texts=TEXTS, model=MODEL, dimensions=64))
        assert (reply.model, reply.width, len(reply.values)) == (MODEL, 64, 4 * 64)
        np.testing.assert_allclose(reply.values[:64], (await fast.embed(TEXTS, 64))[0][0], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "dimensions", "named"),
    [
        (MODEL, 100, "dimensions is 100; accepted of wordllama-l2-supercat-256: 64, 128, 256"),
        ("all-MiniLM-L6-v2", 128, "dimensions is 128; accepted of all-MiniLM-L6-v2: 384"),
        ("other", 0, "no embedder 'other'; accepted: all-MiniLM-L6-v2"),
    ],
)
async def test_what_cannot_be_had_is_named(opening, fast, model, dimensions, named):
    async with opening() as memory:
        with pytest.raises(InvalidArgument, match=named):
            await memory.stub.Embed(EmbedRequest(texts=["a"], model=model, dimensions=dimensions))


async def test_without_the_package_there_is_one_embedder(opening, monkeypatch):
    monkeypatch.setattr(static_embedder, "package", lambda: None)
    async with opening() as memory:
        assert list((await memory.stub.Status(StatusRequest())).embedders) == ["all-MiniLM-L6-v2"]
        with pytest.raises(InvalidArgument, match="no embedder 'wordllama"):
            await memory.stub.Embed(EmbedRequest(texts=["a"], model=MODEL))


async def test_files_of_another_kind_are_named(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "l2_supercat_256.safetensors").write_text("rubbish")
    (tmp_path / "tokenizers").mkdir()
    broken = StaticEmbedder(tmp_path)
    with pytest.raises(InvalidArgument, match=r"l2_supercat_tokenizer_config\.json does not exist"):
        await broken.embed(["a"])
    (tmp_path / "tokenizers" / "l2_supercat_tokenizer_config.json").write_text("{}")
    with pytest.raises(InvalidArgument, match="is no safetensors file"):
        await broken.embed(["a"])
    broken.close()
