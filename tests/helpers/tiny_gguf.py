"""Tiny GGUF files of random torch models, written with the package gguf as llama.cpp's converter writes them."""

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

ALPHABET = sorted({chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))})
ALPHABET += [chr(256 + number) for number in range(256 - len(ALPHABET))]
"""the letters that stand for bytes in byte-level BPE"""
MERGES = ["Ġ t", "h e", "Ġt he", "1 2", "Ġ 1", "' s", "' S", "Ġ Ġ", "ĊĊ Ġ", "Ċ Ċ", "l l", "o k", "Ã ©", "e ĠĠ", "a b"]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>")
WHOLE = "hello"  # a token to which no merges lead
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
BYTES = [*SPECIAL, *ALPHABET, *(merge.replace(" ", "") for merge in MERGES), WHOLE]
BYTE_LEVEL = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": BYTES,
    "tokenizer.ggml.token_type": [3, 3, 3, 4, *[1] * (len(BYTES) - 4)],
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": TEMPLATE,
}
PIECES = [
    "▁",
    *"thequickbrownfxjmpsvlazydg.",
    "é",
    "he",
    "▁t",
    "▁the",
    "th",
    "in",
    "ing",
    "er",
    "▁▁",
    "aa",
    "aaa",
    "▁a",
]
PIECES = list(dict.fromkeys(PIECES))
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, "<extra>"]
SENTENCEPIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(PIECES), 4],
    "tokenizer.ggml.scores": [0.0] * 259 + [-float(7 * at % len(PIECES)) for at in range(len(PIECES))] + [0.0],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}
ARCHS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
SIZES = {
    "vocab_size": len(BYTES),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
    "tie_word_embeddings": False,
}


def make(family, **fields):
    """A random torch language model; norms and biases are random too."""
    config = CONFIG_MAPPING[family](**{**SIZES, **fields})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.2 * noise)
    return model


def write(path, model, kind=Kind.F32, tensors=None, **metadata):
    """Write the GGUF file of a torch model; `metadata` are added, those that are None left out."""
    family = model.config.model_type
    writer = gguf.GGUFWriter(path, family)
    own = {"tokenizer.ggml.pre": "smollm" if family == "llama" else "qwen2"}
    for key, value in {**of_config(model.config), **BYTE_LEVEL, **own, **metadata}.items():
        add(writer, key, value)
    for name, value in {**of_model(model), **(tensors or {})}.items():
        if value is not None:
            stored = blocks(value, kind) if value.ndim == 2 else value
            writer.add_tensor(name, stored, raw_dtype=kind if value.ndim == 2 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer, key, value):
    """Add a value of the metadata in llama.cpp's type; None is left out."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def of_config(config):
    """The metadata of a model."""
    name = config.model_type
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        **({"attention.key_length": width, "attention.value_length": width} if name == "qwen3" else {}),
        **({"rope.dimension_count": width, "vocab_size": config.vocab_size} if name == "llama" else {}),
    }
    return {f"{name}.{key}": value for key, value in found.items()}


def of_model(model):
    """The tensors of a model under llama.cpp's names, the queries and keys of a Llama in its order."""
    config, named = model.config, gguf.get_tensor_name_map(ARCHS[model.config.model_type], 2)
    found = {}
    for name, parameter in model.state_dict().items():
        value = parameter.numpy()
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        if config.model_type == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            halves = value.reshape(heads, 2, len(value) // heads // 2, *value.shape[1:])
            value = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))
        found[named.get_name(name, try_suffixes=(".weight", ".bias"))] = value
    return found


def blocks(value, kind):
    """A matrix in blocks; the package cannot quantize K kinds, of which these are random blocks of finite numbers."""
    if kind not in (Kind.Q4_K, Kind.Q6_K):
        return gguf.quantize(value, kind)
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(value.size)
    made = rng.integers(0, 256, (len(value), value.shape[1] // values, size), np.uint8)
    for at in (0, 2) if kind == Kind.Q4_K else (size - 2,):  # the scales, float16
        made[..., at : at + 2] = rng.uniform(-0.001, 0.001, (*made.shape[:2], 1)).astype(np.float16).view(np.uint8)
    return made.reshape(len(value), -1)
