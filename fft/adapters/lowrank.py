"""A tuned checkpoint less its base as a LoRA adapter, by truncated singular value decompositions.

For a kernel W [in, out] and the tuned W': with W' − W = U diag(σ) Vᵀ, σ falling, the adapter's matrices are

    A = U[:, :R] diag(√σ[:R])  [in, R],    B = diag(√σ[:R]) Vᵀ[:R, :]  [R, out],    and the scale is 1.

A·B is the best approximation of W' − W of rank R in the Frobenius norm and in the spectral norm, with the errors
√(Σ_{i>R} σ_i²) and σ_{R+1} (Eckart and Young 1936, Psychometrika 1, 211-218; Mirsky 1960). Kernels that transformers
stores as one are decomposed as one, so that their parts share A.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fft.adapters.adapter import Adapter
from fft.adapters.layout import Leaves, Part, layout_of
from fft.core.errors import InputError
from fft.core.tree import flatten, unflatten
from fft.methods import LoRA
from fft.methods.lora import A, B
from fft.models import FAMILIES, Checkpoint
from fft.models.files.heads import width
from fft.models.files.keys import listed
from fft.models.files.unembed import KERNEL, WORDS


class Extracted(NamedTuple):
    """A LoRA adapter made of a tuned checkpoint and its base."""

    adapter: Adapter
    base: Checkpoint
    """the base, with the heads of the tuned checkpoint"""
    share: float
    """the share of the squared Frobenius norm of the kernels' changes that the adapter has"""
    whole: tuple[str, ...]
    """the parameters that are saved in full, as they are no kernels"""
    left_out: tuple[str, ...]
    """the heads of the tuned checkpoint that an adapter, which has one head, leaves out"""


def extracted(tuned: Checkpoint, base: Checkpoint, rank: int) -> Extracted:
    """Return the change from `base` to `tuned` as a LoRA adapter of a rank, at most that of each kernel.

    What differs and is no kernel is saved in full: the head, biases, norms, embeddings.

    Raises: InputError for models of two families or sizes, and where nothing or only the head differs.
    """
    before, after = _body(base), _body(tuned)
    refuse_unlike(base, tuned, before, after)
    head = tuned.primary
    heads = {} if head is None else {head: tuned.heads[head]}
    classes = 0 if head is None else width(tuned.heads[head])
    layout = layout_of(tuned, FAMILIES[base.model.family], head, classes)
    changed = {path for path, leaf in after.items() if not np.array_equal(leaf, before[path])}
    theta, kept, total = {}, 0.0, 0.0
    kernels = {name: parts for name, parts in layout.linear().items() if parts[0].module != "pooler"}
    for parts in kernels.values():
        if any(f"{part.module}/kernel" in changed for part in parts):
            leaves, mine, all_of_it = factors(parts, before, after, rank)
            theta |= leaves
            kept, total = kept + mine, total + all_of_it
    if not theta:
        raise InputError(
            f"{tuned.folder} and {base.folder} have equal kernels, so that there is nothing for a LoRA adapter: give "
            "the tuned checkpoint first and its base with --base"
        )
    handled = {f"{part.module}/kernel" for parts in kernels.values() for part in parts}
    whole = sorted(changed - handled)
    theta |= {path: after[path] for path in whole}
    if WORDS in whole and tuned.language and tuned.model.config.shape.tied:
        theta[KERNEL] = after[WORDS].T
    own = {path: np.asarray(leaf) for path, leaf in flatten(tuned.params).items() if path.startswith(f"heads/{head}/")}
    params = {**base.params, "heads": tuned.params["heads"]} if tuned.heads else base.params
    start = base._replace(params=params, heads=tuned.heads, primary=head, max_length=tuned.max_length)
    tree = unflatten({path: jnp.asarray(leaf) for path, leaf in {**theta, **own}.items()})
    adapter = Adapter(LoRA(rank=rank, alpha=float(rank)), tree, heads, head, max_length=tuned.max_length)
    others = tuple(name for name in tuned.heads if name != head)
    return Extracted(adapter, start, kept / total, tuple(whole), others)


def factors(
    parts: tuple[Part, ...], before: Leaves, after: Leaves, rank: int
) -> tuple[dict[str, np.ndarray], float, float]:
    """Return A and B of the parts of a stored kernel, and Σ σ² over the first `rank` singular values and over all."""
    change = np.concatenate(
        [after[f"{part.module}/kernel"] - before[f"{part.module}/kernel"] for part in parts], axis=1
    )
    u, sigma, v = np.linalg.svd(change, full_matrices=False)
    root = np.sqrt(sigma[:rank])
    a, b = np.ascontiguousarray(u[:, :rank] * root), root[:, None] * v[:rank]
    leaves = {f"{part.module}/{A}": a for part in parts}
    leaves |= {f"{part.module}/{B}": np.ascontiguousarray(b[:, part.rows]) for part in parts}
    squares = np.square(sigma, dtype=np.float64)
    return leaves, float(squares[:rank].sum()), float(squares.sum())


def refuse_unlike(base: Checkpoint, tuned: Checkpoint, before: Leaves, after: Leaves) -> None:
    """Refuse two checkpoints that are not of one family and size. Raises: InputError that names what differs."""
    if base.model.family != tuned.model.family:
        raise InputError(
            f"{tuned.folder} is a {tuned.model.family} model, and the base {base.folder} a {base.model.family} model: "
            "give the base that it was tuned from"
        )
    shapes = {path: leaf.shape for path, leaf in before.items()}
    if wrong := [path for path, leaf in after.items() if shapes.get(path) != leaf.shape]:
        advice = "give the base that it was tuned from"
        if wrong == [WORDS] or set(wrong) == {WORDS, KERNEL}:
            advice = (
                "tokens were added, which PEFT expects in the base too: resize the base's embeddings, with "
                "model.resize_token_embeddings, and save it"
            )
        raise InputError(f"{tuned.folder} and the base {base.folder} differ in the shapes of {listed(wrong)}: {advice}")
    if missing := sorted(set(before) - set(after)):
        raise InputError(f"{tuned.folder} lacks parameters of the base {base.folder}: {listed(missing)}")


def _body(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return {path: array} of all parameters but the sequence heads."""
    leaves = flatten(checkpoint.params)
    return {path: np.asarray(leaf) for path, leaf in leaves.items() if not path.startswith("heads/")}
