"""Small random torch language models of every family, tied and untied, the second opinion on the language heads."""

import json

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from tests.helpers.torch_decoders import FAMILIES, OWN_SIZES, PAD, SIZES, VARIANTS, VOCABULARY, texts

torch.set_num_threads(1)

TEXTS = texts([12, 7, 3])
LABELS = np.where(np.random.default_rng(3).random(TEXTS.ids.shape) < 0.5, TEXTS.ids[:, ::-1], -100)
LABELS = np.where(TEXTS.mask == 1, LABELS, -100)
"""what a masked-language loss predicts; -100 where nothing is masked"""

SMALL = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "max_position_embeddings": 24}
BERT = {**SMALL, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 28}
DISTIL = {**SMALL, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 28}
MODERN = {**BERT, **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 4)}
BIASES = {"norm_bias": True, "classifier_bias": True, "decoder_bias": False, "classifier_activation": "silu"}
UNTIED = {"tie_word_embeddings": False}

MASKED = {
    "bert": ("bert", BERT),
    "bert untied": ("bert", {**BERT, **UNTIED, "hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "roberta": ("roberta", BERT),
    "roberta untied": ("roberta", {**BERT, **UNTIED, "hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "distilbert": ("distilbert", DISTIL),
    "distilbert untied": ("distilbert", {**DISTIL, **UNTIED, "activation": "relu"}),
    "modernbert": ("modernbert", MODERN),
    "modernbert untied": ("modernbert", {**MODERN, **UNTIED, "norm_eps": 1e-3}),
    "modernbert biases": ("modernbert", {**MODERN, **BIASES}),
    "modernbert biases untied": ("modernbert", {**MODERN, **BIASES, **UNTIED}),
}
DECODERS = {
    f"{family}{'' if tied else ' untied'}": (
        family,
        {**OWN_SIZES.get(family, SIZES), **VARIANTS[family][0], "tie_word_embeddings": tied},
    )
    for family in FAMILIES
    for tied in (True, False)
}
CASES = {**DECODERS, **MASKED}


def make(case):
    """A random torch model with a language head in eval mode; norms and biases are random too."""
    family, given = CASES[case]
    config = CONFIG_MAPPING[family](**json.loads(json.dumps(given)))
    auto = AutoModelForMaskedLM if case in MASKED else AutoModelForCausalLM
    torch.manual_seed(0)  # transformers draws the weights with the global generator
    return shaken(auto.from_config(config, attn_implementation="eager"))


def masked_bert(size, **given):
    """A random BERT of two layers with its masked language head in eval mode, for a vocabulary of `size` tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=size, **sizes, max_position_embeddings=64, **given)
    return BertForMaskedLM(config).eval()


def shaken(model):
    """A torch model in eval mode with noise on every parameter, norms and biases too."""
    model = model.eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def forward(theirs):
    """Torch's logits [B, T, V] and loss: of the masked tokens, or of every next one."""
    ids, mask = torch.tensor(TEXTS.ids).long(), torch.tensor(TEXTS.mask).long()
    if "ForMaskedLM" in type(theirs).__name__:
        return theirs(ids, attention_mask=mask, labels=torch.tensor(LABELS).long())
    return theirs(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), use_cache=False)


def close_slopes(found, expected, paths):
    """Compare our gradients {path: leaf} with torch's {name: tensor}, leaf by leaf; `paths` is {name: our path}.

    The tolerance is 1e-4 of the leaf's largest entry, or of 1 % of the model's if that is larger.
    """
    assert set(paths.values()) == set(found)
    largest = max(float(np.abs(slope).max()) for slope in expected.values())
    for name, path in paths.items():
        slope = expected[name].T if path.endswith("/kernel") else expected[name]
        least = max(float(np.abs(slope).max()), 0.01 * largest)
        assert np.abs(np.asarray(found[path]) - slope).max() <= 1e-4 * least, path
