"""The model in a GGUF file: its config.json and its tensors under Hugging Face's names and in Hugging Face's order.

llama.cpp stores the rows of the queries and keys of `llama` in another order, no output layer where it is the word
embeddings, and of Llama 3's rotation the divisors of the frequencies in place of the fields that they come from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from fft.core.errors import InputError
from fft.core.settings import says_nothing
from fft.models.decoder_shape import DecoderShape
from fft.models.fields import is_number
from fft.models.files.config import read_config
from fft.models.files.gguf_file import GGUF, dequantized
from fft.models.files.gguf_tokenizer import named_ids
from fft.models.files.keys import body_keys, body_shapes, listed
from fft.models.layers import Config
from fft.models.model import Family
from fft.models.rope import DEFAULT_THETA, KINDS, Rope

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""by their names in GGUF files, which are those of the families"""
PERMUTED = ("llama",)
"""architectures whose queries and keys are stored in the order of the original Llama: pairs (2i, 2i + 1) rotate"""
SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
"""keys that every file has"""
READ = {
    *SIZES,
    "vocab_size",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
IDLE = {"expert_count": 0, "expert_used_count": 0, "attention.causal": True}
"""keys that change nothing at these values"""
MODULES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""modules by Hugging Face's names, without their layer: the names in a GGUF file"""
EMBEDDINGS, OUTPUT, FREQUENCIES = "token_embd.weight", "output.weight", "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""how all Llama 3 models that rotate by more than the default are scaled; the factor differs"""


def architecture(file: GGUF) -> str:
    """Return the architecture of a file. Raises: InputError for one that is not in ARCHITECTURES, and for adapters."""
    kind, name = file.metadata.get("general.type", "model"), file.metadata.get("general.architecture")
    if kind != "model" or name not in ARCHITECTURES:
        what = f"a {name} model" if kind == "model" else f"not a model but of type {kind}"
        raise InputError(f"{file.path} is {what}; of GGUF files only models of {', '.join(ARCHITECTURES)} are read")
    return name


def read_model_config(file: GGUF, families: Mapping[str, Family]) -> tuple[dict[str, Any], Config]:
    """Return config.json for a GGUF file, and the Config of the family that is read from it.

    Raises: InputError for another architecture, keys that are missing or not computed, and values out of range.
    """
    name = architecture(file)
    given = {key.removeprefix(f"{name}."): value for key, value in file.metadata.items() if key.startswith(f"{name}.")}
    _refuse_unknown(file.path, name, given)
    width = _head_width(file.path, name, given)
    if EMBEDDINGS not in file.tensors:
        raise InputError(f"{file.path} lacks {EMBEDDINGS}: get the file again from the model's source")
    raw = {
        "architectures": [families[name].language.architecture],
        "model_type": name,
        "dtype": "float32",
        "hidden_act": "silu",
        **{theirs: given[ours] for ours, theirs in SIZES.items()},
        "vocab_size": file.tensors[EMBEDDINGS].shape[0],
        "num_key_value_heads": given.get("attention.head_count_kv", given["attention.head_count"]),
        "head_dim": width,
        "rope_parameters": _rope_fields(file, given, width),
        "tie_word_embeddings": OUTPUT not in file.tensors,
        **_biases(file, name),
        **named_ids(file),
    }
    config, _ = read_config(raw, families[name], file.path)
    return raw, config


def read_model_tensors(file: GGUF, family: Family, config: Config) -> dict[str, np.ndarray]:
    """Return the tensors of a file as float32, by their names in a Hugging Face checkpoint.

    Raises: InputError that names what is missing, what has another shape than the metadata say, and what the model does
    not have.
    """
    expected = _expected(family, config)
    shapes = {name: shape for name, shape in expected.values()}
    stored = {name: tensor.shape for name, tensor in file.tensors.items() if name != FREQUENCIES}
    for problem, names in {
        "lacks": [name for name in shapes if name not in stored],
        "has unknown tensors": [name for name in stored if name not in shapes],
        "has tensors of other shapes than its metadata say": [
            f"{name} {list(stored[name])}, not {list(shape)}"
            for name, shape in shapes.items()
            if stored.get(name, shape) != shape
        ],
    }.items():
        if names:
            raise InputError(f"{file.path} {problem}: {listed(names)}; get the file again from the model's source")
    tensors = {theirs: dequantized(file, name) for theirs, (name, _) in expected.items()}
    if family.name in PERMUTED:
        shape = cast("DecoderShape", config.shape)
        for part, heads in (("q_proj", shape.heads), ("k_proj", shape.kv_heads)):
            tensors |= {key: halves(value, heads) for key, value in tensors.items() if f".{part}." in key}
    return tensors


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return rows [H·K, …] whose neighbours rotate together in Hugging Face's order: i with i + K/2, in each head."""
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _expected(family: Family, config: Config) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return {Hugging Face's name: (name in a GGUF file, stored shape)} for all tensors of a model."""
    shapes = body_shapes(family, config)
    found = {}
    for key, path in body_keys(family, config).items():
        shape = shapes[path][::-1] if path.endswith("/kernel") else shapes[path]
        found[f"{family.prefix}.{key}"] = _gguf_name(key), shape
    shape = cast("DecoderShape", config.shape)
    if not shape.tied:
        found["lm_head.weight"] = OUTPUT, (shape.vocab, shape.dim)
    return found


def _gguf_name(key: str) -> str:
    """Return the name in a GGUF file of a tensor such as `layers.3.mlp.up_proj.weight`."""
    module, _, leaf = key.rpartition(".")
    if not module.startswith("layers."):
        return f"{MODULES[module]}.{leaf}"
    _, layer, module = module.split(".", 2)
    return f"blk.{layer}.{MODULES[module]}.{leaf}"


def _biases(file: GGUF, name: str) -> dict[str, bool]:
    """Return the fields of a config.json that say which layers have biases; of Qwen2 they are always the same."""
    fields = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_gate.bias"}
    known = {"llama": fields, "qwen2": (), "qwen3": ("attention_bias",)}[name]
    return {field: fields[field] in file.tensors for field in known}


def _refuse_unknown(path: Path, name: str, given: Mapping[str, Any]) -> None:
    """Check the keys of an architecture. Raises: InputError for one that is missing or might change the mathematics."""
    if missing := sorted(set(SIZES) - set(given)):
        raise InputError(f"{path} has no {name}.{missing[0]}: get the file again from the model's source")
    for key, value in given.items():
        if key not in READ and not says_nothing(value) and value != IDLE.get(key):
            shown = "a list" if isinstance(value, list) else repr(value)
            raise InputError(
                f"{path}: {name}.{key} is {shown}, which is not known for a {name} model and might change what it "
                "computes: get the model as a Hugging Face folder"
            )


def _head_width(path: Path, name: str, given: Mapping[str, Any]) -> int:
    """Return K, the width of a head. Raises: InputError where it is not one number for all of a head."""
    wholes = ("embedding_length", "attention.head_count", "attention.key_length")
    if wrong := [key for key in wholes if type(given.get(key, 1)) is not int or given.get(key, 1) < 1]:
        raise InputError(f"{path}: {name}.{wrong[0]} must be a positive integer, but is {given[wrong[0]]}")
    width = given.get("attention.key_length", given["embedding_length"] // given["attention.head_count"])
    for key in ("attention.value_length", "rope.dimension_count"):
        if given.get(key, width) != width:
            raise InputError(f"{path}: {name}.{key} is {given[key]}, but heads are {width} wide; only that is computed")
    return width


def _rope_fields(file: GGUF, given: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return `rope_parameters` of config.json. Raises: InputError for a rotation that these fields cannot describe."""
    theta, unnamed = given.get("rope.freq_base", DEFAULT_THETA), "linear" if "rope.scaling.factor" in given else "none"
    kind = str(given.get("rope.scaling.type", unnamed))
    if not is_number(theta):
        raise InputError(f"{file.path}: rope.freq_base must be a number, but is {theta!r}")
    if FREQUENCIES in file.tensors:
        if kind != "none":
            raise InputError(
                f"{file.path} scales the rotation twice, by {FREQUENCIES} and by rope.scaling ({kind}): get the model "
                "as a Hugging Face folder"
            )
        return {"rope_theta": theta, **_llama3(file, theta, width)}
    scaling = {
        "factor": given.get("rope.scaling.factor"),
        "original_max_position_embeddings": given.get("rope.scaling.original_context_length"),
        "beta_fast": given.get("rope.scaling.yarn_beta_fast"),
        "beta_slow": given.get("rope.scaling.yarn_beta_slow"),
    }
    kinds = {"none": ("default", ()), "linear": ("linear", ("factor",)), "yarn": ("yarn", tuple(scaling))}
    if kind not in kinds:
        raise InputError(f"{file.path}: rope.scaling.type is {kind!r}; supported are {', '.join(kinds)}")
    name, read = kinds[kind]
    return {"rope_type": name, "rope_theta": theta} | {key: scaling[key] for key in read if scaling[key] is not None}


def _llama3(file: GGUF, theta: float, width: int) -> dict[str, Any]:
    """Return the rope fields that give the divisors [K / 2] of the frequencies that a file holds as a tensor.

    Raises: InputError if they are not those of a Llama 3 model.
    """
    divisors = dequantized(file, FREQUENCIES)
    fields = {"rope_type": "llama3", "factor": float(divisors.max()), **LLAMA3}
    if divisors.shape == (width // 2,) and (divisors == 1).all():
        return {"rope_type": "default"}
    rope = Rope(width, 1, rope_theta=theta, **fields)
    with np.errstate(all="ignore"):  # what comes of wrong numbers is not Llama 3's scaling
        plain, scaled = (KINDS[kind](rope)[0] for kind in ("default", "llama3"))
        is_llama3 = divisors.shape == plain.shape and np.allclose(plain / scaled, divisors, rtol=1e-4)
    if not is_llama3:
        raise InputError(
            f"{file.path}: {FREQUENCIES} is not Llama 3's scaling of the rotation, the only one that is read from a "
            "tensor: get the model as a Hugging Face folder"
        )
    return fields
