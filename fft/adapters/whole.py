"""What an adapter's file holds in full: heads and other saved modules, biases, embeddings, and rows of embeddings."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fft.adapters.config import MERGE, Config
from fft.adapters.layout import Layout, Leaves, Tensor
from fft.core.errors import InputError
from fft.models.files.unembed import KERNEL, WORDS

STATE_DICT = re.compile(  # keys with an adapter name or a wrapper module occur only in a model's state dict
    r"\.(lora_(embedding_)?[AB]|lora_magnitude_vector|ln_tuning_layers|ia3_l|modules_to_save|trainable_tokens_delta)"
    r"\.(?!(weight|bias)$)|\.(base_layer|original_module)\.|^prompt_encoder\."
)
BIASES = (".modules_to_save.bias", ".original_module.bias")
"""the ends of copies that PEFT writes of the biases of saved modules, with bias="all"; it reads neither"""
ROWS = ".token_adapter.trainable_tokens_delta"


def plainly_named(stored: Mapping[str, np.ndarray], trains_biases: bool) -> dict[str, np.ndarray]:
    """Return an adapter's tensors, those of wrapped modules under the names that they have in the base.

    PEFT wraps a targeted module. It writes its bias if biases are trained, and its weight if it is an embedding or the
    language head, whose size may have been changed.
    """
    plain = {}
    for key, value in stored.items():
        module = key.partition(".base_layer.")[0]
        wrapped = (trains_biases and key.endswith(".base_layer.bias")) or (
            key.endswith(".base_layer.weight") and _is_end(module, stored)
        )
        if not (trains_biases and key.endswith(BIASES)):
            plain[key.replace(".base_layer.", ".") if wrapped else key] = value
    return plain


def _is_end(module: str, stored: Collection[str]) -> bool:
    return f"{module}.lora_embedding_A" in stored or module.endswith((".lm_head", ".decoder"))


def whole_names(config: Config, layout: Layout, targets: Iterable[str]) -> list[str]:
    """Return the names of the tensors that a config says are stored in full; `targets` are its targeted modules."""
    names = layout.within(config.saved)
    bias = getattr(config, "bias", "none")
    if bias == "none":
        return names
    biases = [name for name, path in layout.names.items() if path.endswith("/bias")]
    if bias != "all":
        modules = {f"{module}.bias" for module in targets}
        biases = [name for name in biases if layout.fused(name) in modules]
    return list(dict.fromkeys([*names, *biases]))


def embedding_names(layout: Layout) -> list[str]:
    """Return the names of the word embeddings and the language head, which PEFT saves for a resized vocabulary."""
    return [name for name, path in layout.names.items() if path in (WORDS, KERNEL)]


def token_rows(config: Config, layout: Layout, prefix: str, base: Leaves, where: Path) -> list[Tensor]:
    """Return the Tensors of trainable_token_indices: rows that replace those of embeddings or of the language head.

    Raises: InputError for a module without such rows, and for ids outside it.
    """
    given: Any = getattr(config, "trainable_token_indices", None) or {}
    words = next(name for name, path in layout.names.items() if path == WORDS).removesuffix(".weight")
    # A tied head has no leaf of its own in the base.
    tables = {name.removesuffix(".weight"): path for name, path in layout.names.items() if path in base}
    tensors = []
    for ending, ids in ({words: given} if isinstance(given, list) else given).items():
        name = next((name for name in tables if name.endswith(ending)), None)
        if name is None:
            raise InputError(
                f"{where}: trainable_token_indices name {ending!r}; the rows of {', '.join(tables)} can be trained "
                f"alone. To use it all the same, {MERGE}"
            )
        path = tables[name]
        table = base[path].T if path == KERNEL else base[path]
        if outside := [number for number in ids if not 0 <= number < len(table)]:
            raise InputError(
                f"{where}: trainable_token_indices hold {outside[0]}, but the base has {len(table)} tokens: give the "
                "base that the adapter was trained on, with the tokens that were added"
            )
        tensors.append(
            Tensor(f"{prefix}{name}{ROWS}", (len(ids), table.shape[1]), {path: _replaced(table, ids, path == KERNEL)})
        )
    return tensors


def token_numbers(config: Config) -> tuple[int, ...]:
    """Return the ids in trainable_token_indices, of whichever module."""
    given: Any = getattr(config, "trainable_token_indices", None) or ()
    return tuple(given) if isinstance(given, list) else tuple(number for ids in dict(given).values() for number in ids)


def _replaced(table: np.ndarray, ids: list[int], turned: bool):
    """Return the function that puts rows [n, D] into a table [V, D]; `turned`: and transposes it."""

    def replaced(rows: np.ndarray) -> np.ndarray:
        changed = np.array(table, np.float32)
        changed[ids] = rows
        return changed.T if turned else changed

    return replaced
