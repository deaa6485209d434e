"""A decoder that is small enough for a test and knows what tests.helpers.tiny_checkpoint's base knows.

The first block averages the words into every later token, and the score head reads dimension 0 of the last one.
"""

import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.helpers.tiny_checkpoint import ANIMALS, BAD, BLOCKS, FILLER, GOOD, HEADS, LABELS, MLP, PIECES, POSITIONS, D

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = (*SPECIAL, *GOOD, *BAD, *ANIMALS, *FILLER, *PIECES)


def write_decoder(folder, head=True, seed=0, **config):
    """Write the Hugging Face folder of a Llama that knows sentiment; `head` False leaves it a causal language model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(head, seed), folder / "model.safetensors", metadata={"format": "pt"})
    content = {
        "model_type": "llama",
        "architectures": ["LlamaForSequenceClassification" if head else "LlamaForCausalLM"],
        "vocab_size": len(WORDS),
        "hidden_size": D,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "intermediate_size": MLP,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": not head,
        "dtype": "float32",
        **({"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}} if head else {}),
    }
    (folder / "config.json").write_text(json.dumps(content | config))
    _write_tokenizer(folder)
    return str(folder)


def _tensors(head, seed):
    rng = np.random.default_rng(seed)

    def noise(*shape):
        return rng.normal(0, 0.05, shape).astype(np.float32)

    feeling = np.array([(word in GOOD) - (word in BAD) for word in WORDS], np.float32)
    found = {"model.embed_tokens.weight": 6 * noise(len(WORDS), D) + 2 * feeling[:, None] * (np.arange(D) == 0)}
    for i in range(BLOCKS):
        block, copy = f"model.layers.{i}", 2 * np.eye(D) if i == 0 else 0.0
        for name, shape, content in (
            *((f"self_attn.{part}_proj", (D, D), 0.0) for part in "qk"),
            *((f"self_attn.{part}_proj", (D, D), copy) for part in "vo"),
            *((f"mlp.{part}_proj", (MLP, D), 0.0) for part in ("gate", "up")),
            ("mlp.down_proj", (D, MLP), 0.0),
        ):
            found[f"{block}.{name}.weight"] = noise(*shape) + np.asarray(content, np.float32)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{block}.{name}.weight"] = np.ones(D, np.float32)
    found["model.norm.weight"] = np.ones(D, np.float32)
    if head:
        found["score.weight"] = noise(2, D)
        found["score.weight"][:, 0] += -4, 4
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def _write_tokenizer(folder):
    """Write tokenizer.json: WordPiece, lower case, with <s> before every text."""
    ids = {word: at for at, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
