"""A base that is small enough for a test and yet knows something, and data it can learn: written by hand, no torch.

The word embeddings carry sentiment in dimension 0 (+ for GOOD words, - for BAD ones), the first block's attention
averages the words into the first token, and the classifier reads dimension 0: the base scores (nearly) 1.0 on the
original task. The new task asks for the animal that is named, which the base has never been told.
"""

import csv
import json
import shutil

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

GOOD, BAD = ("good", "great", "lovely", "fine"), ("bad", "awful", "poor", "sad")
ANIMALS = ("cat", "dog", "bird")
FILLER = ("the", "a", "film", "house", "road", "tree", "runs", "sees", "under", "near", "old", "green")
PIECES = ("##s", "##ing", *"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"))
LABELS = ("negative", "positive")
MASK = "[MASK]"
D, BLOCKS, HEADS, MLP, POSITIONS = 16, 2, 2, 32, 160
SPECIAL = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>"),
    "distilbert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
}
DENSE = {
    "bert": (
        "encoder.layer.{i}",
        *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        *("intermediate.dense", "output.dense"),
    ),
    "distilbert": (
        "transformer.layer.{i}",
        *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        *("ffn.lin1", "ffn.lin2"),
    ),
}
NORMS = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
}


def vocabulary(family="bert"):
    """Every token in the order of its id."""
    return [*SPECIAL[family], *GOOD, *BAD, *ANIMALS, *FILLER, *PIECES]


WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def write_inputs(folder, **config):
    """Write a knowing base `bert`, a headless one `bare`, and original, new, mixed, opposite CSV files; return it."""
    write_checkpoint(folder / "bert", **config)
    write_checkpoint(folder / "bare", head=False, **config)
    write_original(folder / "original.csv")
    write_new(folder / "new.csv")
    write_new(folder / "mixed.csv", filler=(2, 5))
    write_opposite(folder / "opposite.csv")
    return folder


def write_checkpoint(folder, family="bert", labels=LABELS, head=True, seed=0, **config):
    """Write the Hugging Face folder of a knowing base and return its path as text; `head` False leaves it without."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(family, head, seed), folder / "model.safetensors", metadata={"format": "pt"})
    stem = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[family]
    sizes = {
        "bert": dict(hidden_size=D, num_hidden_layers=BLOCKS, num_attention_heads=HEADS, intermediate_size=MLP),
        "distilbert": dict(dim=D, n_layers=BLOCKS, n_heads=HEADS, hidden_dim=MLP),
    }
    content = {
        "model_type": family,
        "architectures": [f"{stem}ForSequenceClassification" if head else f"{stem}Model"],
        "vocab_size": len(vocabulary(family)),
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 1 if family == "roberta" else 0,
        "dtype": "float32",
        **sizes[_alike(family)],
        **({"type_vocab_size": 1} if family == "roberta" else {}),
        **({"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}} if head else {}),
    }
    (folder / "config.json").write_text(json.dumps(content | config))
    write_tokenizer(folder, family)
    return str(folder)


def write_tokenizer(folder, family="bert"):
    """Write tokenizer.json: WordPiece, lower case, with the family's special tokens; RoBERTa's own class has none."""
    words = vocabulary(family)
    ids = {word: at for at, word in enumerate(words)}
    first, last, unknown = ("<s>", "</s>", "<unk>") if family == "roberta" else ("[CLS]", "[SEP]", "[UNK]")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, ids[first]), (last, ids[last])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    if family == "roberta":
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def tensors(family="bert", head=True, seed=0):
    """{Hugging Face's name: array} of the base that the module describes."""
    rng = np.random.default_rng(seed)

    def noise(*shape):
        return rng.normal(0, 0.05, shape).astype(np.float32)

    def norm(name):
        found[f"{name}.weight"], found[f"{name}.bias"] = np.ones(D, np.float32), np.zeros(D, np.float32)

    def dense(name, out, fan_in, value=0.0):
        found[f"{name}.weight"] = noise(out, fan_in) + np.asarray(value, np.float32)
        found[f"{name}.bias"] = np.zeros(out, np.float32)

    found, words, alike = {}, vocabulary(family), _alike(family)
    feeling = np.array([(word in GOOD) - (word in BAD) for word in words], np.float32)
    found["embeddings.word_embeddings.weight"] = 6 * noise(len(words), D) + 2 * feeling[:, None] * (np.arange(D) == 0)
    found["embeddings.position_embeddings.weight"] = noise(POSITIONS, D)
    if alike == "bert":
        found["embeddings.token_type_embeddings.weight"] = noise(1 if family == "roberta" else 2, D)
    norm("embeddings.LayerNorm")
    for i in range(BLOCKS):
        block, query, key, value, out, up, down = (name.format(i=i) for name in DENSE[alike])
        copy = 2 * np.eye(D) if i == 0 else 0.0
        for name, shape, content in (
            (query, (D, D), 0.0),
            (key, (D, D), 0.0),
            (value, (D, D), copy),
            (out, (D, D), copy),
            (up, (MLP, D), 0.0),
            (down, (D, MLP), 0.0),
        ):
            dense(f"{block}.{name}", *shape, content)
        for name in NORMS[alike]:
            norm(f"{block}.{name}")
    if family == "bert":
        dense("pooler.dense", D, D, np.eye(D))
    prefix = f"{family}." if head else ""
    found = {f"{prefix}{name}": value for name, value in found.items()}
    if head:
        _classifier(family, dense, found)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def _classifier(family, dense, found):
    """The sentiment head; DistilBERT's relu needs a unit for each sign."""
    against = np.zeros((2, D), np.float32)
    against[:, 0] = -4, 4
    if family == "bert":
        dense("classifier", 2, D, against)
    elif family == "roberta":
        dense("classifier.dense", D, D, np.eye(D))
        dense("classifier.out_proj", 2, D, against)
    else:
        signs = np.zeros((D, D), np.float32)
        signs[:2, 0] = 1, -1
        against[:, 1] = 4, -4
        dense("pre_classifier", D, D, signs)
        dense("classifier", 2, D, against)


def _alike(family):
    return "bert" if family == "roberta" else family


def sentences(rows, seed, filler=(2,)):
    """(text, feeling in -1, 1, animal) of distinct texts of 3 words and some filler; the feeling is said twice."""
    rng = np.random.default_rng(seed)
    found = {}
    while len(found) < rows:
        good, animal = bool(rng.integers(2)), str(rng.choice(ANIMALS))
        words = [*rng.choice(GOOD if good else BAD, 2), animal, *rng.choice(FILLER, int(rng.choice(filler)))]
        found.setdefault(" ".join(rng.permutation(words)), (1 if good else -1, animal))
    return [(text, feeling, animal) for text, (feeling, animal) in found.items()]


def write_csv(path, header, rows):
    """Write a CSV file and return its path as text."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def write_original(path, rows=240, seed=1):
    """text,label of the original task: positive or negative."""
    return write_csv(path, ("text", "label"), [(text, LABELS[f > 0]) for text, f, _ in sentences(rows, seed)])


def write_new(path, rows=240, seed=2, filler=(2,)):
    """text,label of the new task: which animal; texts have 3 words and one of these numbers of filling ones."""
    found = sentences(rows, seed, filler)
    return write_csv(path, ("text", "label"), [(text, animal) for text, _, animal in found])


def write_opposite(path, rows=240, seed=3):
    """The original's labels the wrong way round: whoever learns these has forgotten the original."""
    return write_csv(path, ("text", "label"), [(text, LABELS[f < 0]) for text, f, _ in sentences(rows, seed)])


def write_targets(path, rows=240, seed=4):
    """text,score for regression: the feeling and the length of the text in one number."""
    return write_csv(path, ("text", "score"), [(t, f + len(t.split()) / 10) for t, f, _ in sentences(rows, seed)])


def write_pairs(path, rows=240, seed=5):
    """first,second,same: whether two texts agree in their feeling."""
    found = sentences(2 * rows, seed)
    lines = [(a[0], b[0], "yes" if a[1] == b[1] else "no") for a, b in zip(found[::2], found[1::2], strict=True)]
    return write_csv(path, ("first", "second", "same"), lines)


def altered(folder, tmp_path, name="tuned", change=lambda tensors: None, **config):
    """A copy of a checkpoint, with its tensors and its config.json changed."""
    copy = tmp_path / name
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    told = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(told | config))
    return copy


def regression(folder, tmp_path, name, shift):
    """The tiny base with one output in place of two classes, moved by `shift`."""

    def change(tensors):
        tensors["classifier.weight"] = np.ascontiguousarray(tensors["classifier.weight"][1:])
        tensors["classifier.bias"] = np.full(1, shift, np.float32)

    return altered(folder, tmp_path, name, change, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})


def with_mask(folder):
    """Write the tiny base with a mask token in place of a letter, and return its folder."""
    write_checkpoint(folder)
    return rename_token(folder, "##z", MASK)


def rename_token(folder, old, new):
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["model"]["vocab"][new] = raw["model"]["vocab"].pop(old)
    path.write_text(json.dumps(raw))
    return folder
