"""GPT-2 (Radford et al. 2019): LayerNorms, learned positions, a plain GELU MLP; fused and transposed in files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fft.models.decoder import Decoder
from fft.models.decoder_config import HEAD_ROWS, CausalConfig, ScoreHead
from fft.models.decoder_shape import DecoderShape, LayerAttention
from fft.models.fields import Activation, Depth, Rate, Size, Small, Switch, Token
from fft.models.files.stacked import join_rows, split_rows
from fft.models.language import next_token
from fft.models.model import Family


@dataclass(frozen=True)
class GPT2Config(CausalConfig):
    """The fields of a GPT-2 config.json that change the mathematics, under their own names and defaults.

    `reorder_and_upcast_attn` changes only the order of float32 operations.
    """

    vocab_size: Size = 50257
    n_positions: Size = 1024
    n_embd: Size = 768
    n_layer: Depth = 12
    n_head: Size = 12
    n_inner: Size | None = None
    activation_function: Activation = "gelu_new"
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: Small = 1e-5
    initializer_range: Small = 0.02
    scale_attn_weights: Switch = True
    scale_attn_by_inverse_layer_idx: Switch = False
    reorder_and_upcast_attn: Switch = False
    tie_word_embeddings: Switch = True
    pad_token_id: Token | None = None

    @property
    def shape(self) -> DecoderShape:
        """The sizes, rates and choices as a DecoderShape."""
        width = self.n_embd // self.n_head
        scale = width**-0.5 if self.scale_attn_weights else 1.0
        scales = [scale / (i + 1 if self.scale_attn_by_inverse_layer_idx else 1) for i in range(self.n_layer)]
        return DecoderShape(
            vocab=self.vocab_size,
            positions=self.n_positions,
            dim=self.n_embd,
            depth=self.n_layer,
            heads=self.n_head,
            kv_heads=self.n_head,
            width=width,
            mlp=self.n_inner or 4 * self.n_embd,
            activation=self.activation_function,
            epsilon=self.layer_norm_epsilon,
            attention=tuple(LayerAttention(None, None, scale) for scale in scales),
            pad=self.pad_token_id,
            tied=self.tie_word_embeddings,
            norm="layer",
            gated=False,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            learned_positions=True,
            embed_dropout=self.embd_pdrop,
            attention_dropout=self.attn_pdrop,
            attention_out_dropout=self.resid_pdrop,
            mlp_out_dropout=self.resid_pdrop,
        )

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        if self.n_embd % self.n_head:
            yield f"the model width {self.n_embd} is not a multiple of its {self.n_head} heads"


LAYER = "h.{i}"
BODY = (
    ("wte", "embed/word", "embed"),
    ("wpe", "embed/position", "embed"),
    (f"{LAYER}.ln_1", "layers/{i}/attention_norm", "norm"),
    (f"{LAYER}.attn.query", "layers/{i}/attention/query", "dense"),
    (f"{LAYER}.attn.key", "layers/{i}/attention/key", "dense"),
    (f"{LAYER}.attn.value", "layers/{i}/attention/value", "dense"),
    (f"{LAYER}.attn.c_proj", "layers/{i}/attention/out", "dense"),
    (f"{LAYER}.ln_2", "layers/{i}/mlp_norm", "norm"),
    (f"{LAYER}.mlp.c_fc", "layers/{i}/mlp/up", "dense"),
    (f"{LAYER}.mlp.c_proj", "layers/{i}/mlp/down", "dense"),
    ("ln_f", "final_norm", "norm"),
)
STACKED = {".attn.c_attn.": (".attn.query.", ".attn.key.", ".attn.value.")}
TRANSPOSED = (".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight")


def split(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors with kernels as [out, in], and query, key and value apart."""
    turned = {name: value.T if name.endswith(TRANSPOSED) else value for name, value in tensors.items()}
    return split_rows(turned, STACKED)


def join(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors as GPT-2's files have them; the inverse of `split`."""
    fused = join_rows(tensors, STACKED)
    return {
        name: np.ascontiguousarray(value.T) if name.endswith(TRANSPOSED) else value for name, value in fused.items()
    }


FAMILY = Family(
    name="gpt2",
    prefix="transformer",
    architecture="GPT2",
    network=Decoder,
    config=GPT2Config,
    body=BODY,
    head_rows=HEAD_ROWS,
    language=next_token("GPT2LMHeadModel"),
    ignored=(r"lm_head\..*", r"h\.\d+\.attn\.(masked_)?bias"),
    head=lambda config: ScoreHead,
    split=split,
    join=join,
    stacks=tuple(STACKED.items()),
    turned=TRANSPOSED,
)
