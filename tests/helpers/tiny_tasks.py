"""A word-level tokenizer folder and a checkpoint stand-in, for tests of everything before the model."""

import json
from types import SimpleNamespace

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fft.data.encoded import Encoded

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(40))]


def tokenizer_folder(folder, model_type="bert", words=WORDS, **config):
    """A folder with tokenizer.json (word w0 has id 4, ...), which counts alone, and config.json."""
    folder.mkdir(exist_ok=True)
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.enable_padding(length=64)
    backend.enable_truncation(5)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "pad_token_id": 0, **config}))
    return folder


def checkpoint(folder, vocab_size=44, max_positions=128):
    """What `prepare` needs of a Checkpoint."""
    config = SimpleNamespace(vocab_size=vocab_size, max_positions=max_positions)
    return SimpleNamespace(folder=folder, model=SimpleNamespace(config=config))


def encoded(lengths, labels=None):
    """Encoded rows of the given lengths; row r holds the ids 100 + r."""
    ids = [np.full(length, 100 + row, np.int32) for row, length in enumerate(lengths)]
    labels = np.arange(len(lengths)) % 2 if labels is None else labels
    return Encoded(ids, [np.zeros_like(i) for i in ids], labels.astype(np.int32), np.arange(1, len(lengths) + 1))


def write_csv(path, rows, header="text,label"):
    """A CSV file of ready-made lines."""
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)
