"""Small random torch decoders with odd sizes, the second opinion on every number of the generative families."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, GraniteConfig, GranitePreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification

from fft import models
from fft.core.batch import Inputs
from fft.core.tree import flatten
from fft.models.files.keys import rename

torch.set_num_threads(1)


class GraniteForSequenceClassification(GenericForSequenceClassification, GranitePreTrainedModel):
    """The class that transformers lacks, made as those of Llama and the others."""


AutoModelForSequenceClassification.register(GraniteConfig, GraniteForSequenceClassification, exist_ok=True)

VOCABULARY, PAD, TOKENS = 61, 1, 12
FULL, SLIDING = "full_attention", "sliding_attention"
ODD = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "num_labels": 3, "max_position_embeddings": 64}
SIZES = {
    **ODD,
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 10,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "llama3": {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 16},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
}
YARN = {**ROPES["yarn"], "beta_fast": 8.0, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 1.1, "truncate": False}

MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.22,
    "logits_scaling": 0.3,
}

VARIANTS = {
    "llama": (
        {"rope_parameters": ROPES["llama3"], "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"rope_parameters": ROPES["linear"], "num_key_value_heads": 2, "rms_norm_eps": 1e-2, "hidden_act": "gelu"},
        {"rope_parameters": ROPES["dynamic"], "head_dim": None, "num_key_value_heads": None},
    ),
    "mistral": (
        {"rope_parameters": YARN, "sliding_window": 4},
        {"rope_parameters": ROPES["default"], "sliding_window": None, "num_key_value_heads": 2},
    ),
    "qwen2": (
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
        {
            "rope_parameters": ROPES["yarn"],
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": [SLIDING, FULL],
        },
        {"use_sliding_window": False, "sliding_window": 3, "max_window_layers": 0},
    ),
    "qwen3": (
        {
            "rope_parameters": ROPES["default"],
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": [SLIDING, FULL],
        },
        {"rope_parameters": ROPES["yarn"], "num_key_value_heads": 4},
    ),
    "smollm3": (
        {"no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 3, "attention_bias": True},
        {"no_rope_layer_interval": 2, "rope_parameters": ROPES["llama3"], "mlp_bias": True},
        {"no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 5, "layer_types": [SLIDING, FULL]},
    ),
    "gemma": (
        {"rope_parameters": ROPES["default"], "attention_bias": True},
        {"rope_parameters": ROPES["linear"], "hidden_act": "relu", "tie_word_embeddings": False},
    ),
    "gemma2": (
        {"attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 7, "sliding_window": 4, "attention_bias": True},
        {"attn_logit_softcapping": None, "sliding_window": 3, "layer_types": [FULL, SLIDING]},
    ),
    "gemma3_text": (
        {
            "num_hidden_layers": 3,
            "sliding_window_pattern": 3,
            "sliding_window": 4,
            "query_pre_attn_scalar": 7,
            "rope_parameters": {FULL: ROPES["linear"], SLIDING: ROPES["default"]},
        },
        {"layer_types": [FULL, SLIDING], "sliding_window": 3, "attention_bias": True},
    ),
    "granite": (
        {**MULTIPLIERS, "rope_parameters": ROPES["default"], "attention_bias": True},
        {
            "residual_multiplier": 1.7,
            "attention_multiplier": 0.15,
            "rope_parameters": ROPES["llama3"],
            "num_key_value_heads": 2,
            "mlp_bias": True,
        },
    ),
    "olmo2": (
        {"head_dim": 10, "num_key_value_heads": 2, "attention_bias": True, "rope_parameters": ROPES["default"]},
        {"num_key_value_heads": None, "rope_parameters": ROPES["llama3"], "hidden_act": "gelu", "rms_norm_eps": 1e-2},
    ),
    "gpt2": (
        {"scale_attn_by_inverse_layer_idx": True, "n_inner": 30},
        {"scale_attn_weights": False, "activation_function": "relu"},
        {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False},
    ),
}
GPT2 = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "num_labels": 3, "n_positions": 64}
GPT2 |= {"n_embd": 24, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 2}
OLMO2 = {name: value for name, value in SIZES.items() if name != "head_dim"}
OWN_SIZES = {"olmo2": OLMO2, "gpt2": GPT2}
"""of families that name them otherwise, or whose config has no default of a size"""
FAMILIES = tuple(VARIANTS)
CASES = [(family, i) for family in FAMILIES for i in range(len(VARIANTS[family]))]


def make(family, seed=0, **overrides):
    """A random torch model with a score head in eval mode; norms and biases are random too, attention is uneven."""
    sizes = OWN_SIZES.get(family, SIZES)
    given = json.loads(json.dumps({**sizes, **overrides}))  # transformers fills in the objects that it is handed
    config = CONFIG_MAPPING[family](**given)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name or "ln_" in name
            parameter.copy_(parameter + 0.2 * noise if is_norm else 0.3 * noise)
    return model


class Pair:
    """A torch model and the checkpoint that fft reads from its folder; every function of ours is compiled once."""

    def __init__(self, theirs, folder):
        self.theirs, self.folder = theirs, folder
        theirs.save_pretrained(folder)
        self.checkpoint = models.load(folder)
        self.model, self.params = self.checkpoint.model, self.checkpoint.params
        self._states = jax.jit(functools.partial(self.model.states, read=("tokens", "pooled")))
        self._pooled = jax.jit(self.model.states)

    def states(self, inputs, params=None):
        """Our token states [B, T, D] and pooled states [B, D]."""
        states = self._states(self.params if params is None else params, inputs)
        return np.asarray(states.tokens), np.asarray(states.pooled)

    def pooled(self, inputs):
        """Our pooled states [B, D] from the pass that computes the last block for one token only."""
        return np.asarray(self._pooled(self.params, inputs).pooled)

    def logits(self, pooled):
        """Our score logits [B, C]."""
        return np.asarray(self.model.readout(self.params, "original", pooled))

    def expected(self, inputs):
        """Torch's token states [B, T, D] and score logits [B, C]."""
        with torch.no_grad():
            states, logits = forward(self.theirs, inputs)
        return states.numpy(), logits.numpy()


def forward(theirs, inputs):
    """The states and score logits of a torch model, with positions that count from 0 at the first real token."""
    mask = torch.tensor(np.asarray(inputs.mask)).long()
    given = {
        "input_ids": torch.tensor(np.asarray(inputs.ids)).long(),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "use_cache": False,
    }
    seen = {}
    hook = theirs.score.register_forward_hook(lambda module, args, output: seen.update(states=args[0]))
    logits = theirs(**given).logits
    hook.remove()
    return seen["states"], logits


def texts(lengths, tokens=TOKENS, seed=0, left=False):
    """Random rows of these lengths with padding; a row of full mask may end in the padding id, as where pad is eos."""
    rng = np.random.default_rng(seed)
    place = np.arange(tokens)[None]
    ends = np.array(lengths)[:, None]
    mask = (place >= tokens - ends if left else place < ends).astype(np.int32)
    ids = np.where(mask == 1, rng.integers(2, VOCABULARY, mask.shape), PAD).astype(np.int32)
    return Inputs(ids, mask, np.zeros_like(ids))


def gradients(pair, inputs):
    """{path: gradient} of a next-token loss and of the score's cross-entropy: twice ours, twice torch's."""
    rng = np.random.default_rng(5)
    output = rng.normal(size=(pair.model.config.shape.dim, VOCABULARY)).astype(np.float32) / 2
    label = rng.integers(0, 3, len(inputs.ids))
    follows = (inputs.mask[:, 1:] * inputs.mask[:, :-1]) == 1

    def loss(params, share):
        states = pair.model.states(params, inputs, read=("tokens", "pooled"))
        scores = jax.nn.log_softmax(states.tokens[:, :-1] @ output)
        nll = -jnp.take_along_axis(scores, inputs.ids[:, 1:, None], axis=2)[..., 0]
        classes = jax.nn.log_softmax(pair.model.readout(params, "original", states.pooled))
        score = -jnp.mean(jnp.take_along_axis(classes, label[:, None], axis=1))
        return share[0] * jnp.sum(nll * follows) / follows.sum() + share[1] * score

    slope = jax.jit(jax.grad(loss))
    ours = [flatten(slope(pair.params, np.array(share, np.float32))) for share in ((1, 0), (0, 1))]
    states, logits = forward(pair.theirs, inputs)
    ids = torch.tensor(inputs.ids).long()
    nll = torch.nn.functional.cross_entropy(
        (states[:, :-1] @ torch.tensor(output))[torch.tensor(follows)], ids[:, 1:][torch.tensor(follows)]
    )
    score = torch.nn.functional.cross_entropy(logits, torch.tensor(label))
    return ours, [torch_slope(pair, value) for value in (nll, score)]


def torch_slope(pair, loss):
    """{our path: torch's gradient in our layout}; 0 for what the loss does not read."""
    named = dict(pair.theirs.named_parameters())
    slopes = torch.autograd.grad(loss, named.values(), retain_graph=True, allow_unused=True)
    zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(named.values(), slopes, strict=True)]
    family = models.FAMILIES[pair.model.family]
    apart = family.split({name: value.numpy() for name, value in zip(named, zeros, strict=True)})
    paths = rename(apart, family, pair.model.config, "original", "torch")
    return {path: apart[name].T if path.endswith("/kernel") else apart[name] for name, path in paths.items()}
