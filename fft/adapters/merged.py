"""What merging an adapter changes: the merged and cast model beside the base with the adapter's matrices.

Merging rounds W + s·A·B, and a cast to the format of the base rounds it again, which loses updates below 2⁻⁸ of a
weight in bfloat16: the merge is computed in float32, cast once, and measured (peft's issues 1388 and 2502 report the
effect).
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from fft.adapters.adapter import Adapter
from fft.core.tree import flatten, map_leaves, unflatten
from fft.evaluate.difference import Difference, difference
from fft.methods import LoRA
from fft.methods.lora import modules_of, weight_of
from fft.models import Checkpoint, untied

MERGED = ("embed/", "unembed")
"""the begins of modules whose layers have no path for an adapter of their own"""


def merging_difference(adapter: Adapter, base: Checkpoint, merged: Checkpoint, head: str | None) -> Difference:
    """Return what merging into `merged` and casting to its format changed against the base with the adapter beside it.

    Both have the weights as they are stored.
    """
    return difference(beside(adapter, base), stored_as(merged), head)


def beside(adapter: Adapter, base: Checkpoint) -> Checkpoint:
    """Return the base with the matrices of a LoRA adapter beside its kernels, as PEFT computes it unmerged.

    Those of embeddings and the language head are merged, and so are adapters of other methods.
    """
    merged = adapter.on(base)
    if not isinstance(adapter.method, LoRA):
        return merged
    inject = replace(adapter.method, factored=True, merged=False, dropout=0.0).parts().tree
    assert inject is not None and inject.inject is not None  # LoRA's own
    start = (untied(base) if adapter.unties else base).params
    leaves = flatten(inject.inject(start, adapter.theta, jax.random.key(0)))
    ends = [module for module in modules_of(leaves) if module.startswith(MERGED)]
    whole = flatten(merged.params)
    leaves |= {weight_of(module, leaves): whole[weight_of(module, leaves)] for module in ends}
    kept = {path: leaf for path, leaf in leaves.items() if not (path.startswith(MERGED) and "/lora_" in path)}
    return merged._replace(params=unflatten(kept))


def stored_as(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with its weights as a file in its format, raw_config['dtype'], would give them back."""
    dtype = jnp.dtype(checkpoint.raw_config.get("dtype", "float32"))
    rounded = map_leaves(lambda path, leaf: leaf.astype(dtype).astype(jnp.float32), checkpoint.params)
    return checkpoint._replace(params=rounded)
