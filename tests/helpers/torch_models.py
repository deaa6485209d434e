"""Small random torch transformers, the second opinion on every number of fft.models."""

import numpy as np
import torch
import transformers

from fft.core.batch import Inputs

SMALL = {"vocab_size": 61, "max_position_embeddings": 24}
BERT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
DISTIL = {"dim": 48, "n_layers": 2, "n_heads": 3, "hidden_dim": 96}

FAMILIES = {
    "bert": ("Bert", {**SMALL, **BERT}),
    "roberta": ("Roberta", {**SMALL, **BERT}),
    "distilbert": ("DistilBert", {**SMALL, **DISTIL}),
}


def make(family, kind="ForSequenceClassification", seed=0, **overrides):
    """A random torch model in eval mode with no parameter at a special value (norms and biases are random too)."""
    stem, sizes = FAMILIES[family]
    config = getattr(transformers, f"{stem}Config")(**{**sizes, **overrides})
    model = getattr(transformers, f"{stem}{kind}")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1.0 + 0.2 * noise if norm else 0.25 * noise)
    return model


def save(model, folder, **kwargs):
    """Save a torch model as a Hugging Face folder and return the folder."""
    model.save_pretrained(folder, **kwargs)
    return folder


def batch(family, rows=4, tokens=9, pad=None, seed=0, lengths=None):
    """Random ids, mask and types [rows, tokens] with padding at the end of all rows but the first."""
    rng = np.random.default_rng(seed)
    pad = {"bert": 0, "roberta": 1, "distilbert": 0}[family] if pad is None else pad
    lengths = [max(2, tokens - 2 * i) for i in range(rows)] if lengths is None else lengths
    ids = rng.integers(5, 61, (rows, tokens)).astype(np.int32)
    mask = (np.arange(tokens)[None] < np.array(lengths)[:, None]).astype(np.int32)
    types = rng.integers(0, 2, (rows, tokens)).astype(np.int32) if family == "bert" else np.zeros_like(ids)
    return Inputs(np.where(mask == 1, ids, pad).astype(np.int32), mask, types * mask)


def inputs(family, arrays):
    """The batch as keyword arguments of a torch model."""
    names = {"input_ids": "ids", "attention_mask": "mask"}
    if family != "distilbert":
        names["token_type_ids"] = "types"
    return {theirs: torch.tensor(getattr(arrays, ours)).long() for theirs, ours in names.items()}


def logits(model, family, arrays):
    """The torch model's logits as numpy."""
    with torch.no_grad():
        return model(**inputs(family, arrays)).logits.numpy()


def close(ours, theirs, tolerance=1e-5):
    """The stated tolerance for logits: 1e-5 * max(1, largest |logit|)."""
    theirs = np.asarray(theirs)
    difference = np.abs(np.asarray(ours) - theirs).max()
    assert difference <= tolerance * max(1.0, np.abs(theirs).max()), difference
