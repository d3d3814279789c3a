"""The model that fakes serve: a token a byte, and a chat template."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from actors.base.vocabulary import byte_of_character
from protos.gen import (
    worker_pb2,
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 512


def byte_vocabulary(template: str = TEMPLATE, *, bos: bool = False) -> worker_pb2.Vocabulary:
    """Byte-level: token i is byte i; then <|endoftext|> 256, <|im_start|> 257, <|im_end|> 258."""
    pieces = dict(byte_of_character())
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    return worker_pb2.Vocabulary(
        tokenizer_json=tokenizer.to_str().encode(),
        chat_template=template,
        eos_ids=[258, 256],
        bos_id=256,
        add_bos=bos,
        vocab_size=259,
    )


def told_of(ids: list[int], tops: int, value: float) -> worker_pb2.Logprobs:
    """What a fake replica tells of tokens: `value` of each, and of the alternatives `id + i` -(1 + i)."""
    return worker_pb2.Logprobs(
        chosen=[value] * len(ids),
        tops=tops,
        top_ids=[(token + place) % 256 for token in ids for place in range(tops)],
        top_values=[-1 - place for _ in ids for place in range(tops)],
    )
