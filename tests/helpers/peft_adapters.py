"""Adapters that the peft package makes on small random torch models, with its logits as the second opinion."""

import warnings

import jax
import numpy as np
import peft
import torch

from fft.core.batch import Inputs

TRAINED = ("lora", "ia3", "ln_tuning", "modules_to_save", "trainable_tokens", "prompt_encoder")


def adapted(model, config, seed=3, biases=False, spread=0.2):
    """The model of PEFT's on a torch model, with random values in what is trained; `biases`: those of the base too."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model, config).eval()
    return randomize(model, seed, biases, spread)


def randomize(model, seed=3, biases=False, spread=0.2):
    """Add random values to what is trained in a model of PEFT's, in every adapter of it; return the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            trained = any(word in name for word in TRAINED) or (biases and parameter.requires_grad)
            if trained and "original_module" not in name:
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def with_peft(model, folder):
    """The torch model with peft's adapter of a folder; anything that peft warns of is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Unsupported layer type .*[Nn]orm")  # it says so of its own LN_TUNING
        return peft.PeftModel.from_pretrained(model, folder).eval()


def rows(pad, vocabulary=61, lengths=(9, 7, 4), seed=0):
    """Right-padded Inputs of random tokens."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(max(lengths))[None] < np.array(lengths)[:, None]).astype(np.int32)
    ids = np.where(mask == 1, rng.integers(5, vocabulary, mask.shape), pad).astype(np.int32)
    return Inputs(ids, mask, np.zeros_like(ids))


def theirs(model, batch):
    """A torch model's logits: [B, C] of a sequence head; of a language head those of the real tokens [N, V]."""
    mask = torch.tensor(batch.mask).long()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(batch.ids).long(), attention_mask=mask).logits.numpy()
    return logits if logits.ndim == 2 else logits[:, -batch.mask.shape[1] :][batch.mask == 1]  # behind virtual ones


def ours(checkpoint, batch):
    """Our logits, as `theirs`."""
    model, params = checkpoint.model, checkpoint.params
    if checkpoint.primary is None:
        states = jax.jit(lambda params, batch: model.states(params, batch, read=("tokens",)).tokens)(params, batch)
        return np.asarray(model.unembed(params, states))[batch.mask == 1]
    return np.asarray(model.apply(params, batch)["logits"][checkpoint.primary])


def deviation(found, expected):
    """The largest difference as a share of max(1, largest |logit|)."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
