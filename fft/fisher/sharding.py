"""Sums over examples on several devices, without communicating activations.

Every device sums over its own rows of a batch. Sharded parameters (as in FSDP) are gathered for the pass, and the sums
scattered with the same sharding. If XLA sharded a `lax.scan` over a batch by itself, it would gather every activation
and every cotangent of the batch; `shard_map` gathers only parameters.
"""

from collections.abc import Mapping

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fft.core.batch import Labelled
from fft.core.errors import InputError
from fft.core.tree import Params, flatten, map_leaves, unflatten
from fft.fisher.squares import Squares


def fully_sharded(tree: Params, mesh: Mesh) -> Params:
    """Split every leaf over all devices of the mesh, along its largest axis that their number divides (FSDP)."""

    def placed(leaf: jax.Array) -> jax.Array:
        sizes = [size if size % mesh.size == 0 else 0 for size in leaf.shape]
        at = sizes.index(max(sizes)) if any(sizes) else None
        spec = P(*(mesh.axis_names if axis == at else None for axis in range(leaf.ndim)))
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree)


def split_rows(batch: Labelled, mesh: Mesh) -> Labelled:
    """Split the rows of a host batch [B, ...] over every axis of the mesh.

    Raises: InputError if the number of devices does not divide B.
    """
    rows = len(batch.weight)
    if rows % mesh.size:
        raise InputError(
            f"{mesh.size} devices cannot share batches of {rows} rows evenly: choose a --batch-size that {mesh.size} "
            "divides"
        )
    return jax.device_put(batch, NamedSharding(mesh, P(mesh.axis_names)))


def sharded(squares: Squares, mesh: Mesh, selected: Params, params: Params) -> Squares:
    """Return `squares(selected, params, batch, key)` for batches split over every axis of the mesh.

    Leaves of `selected` and `params` that are sharded on the mesh are gathered inside, and the sums of such a leaf of
    `selected` are sharded like it; other leaves are replicated. Batches come from `split_rows`.
    """
    selected_specs, params_specs = _specs(selected, mesh), _specs(params, mesh)

    def of_shard(selected: Params, params: Params, batch: Labelled, key: jax.Array) -> Params:
        sums = squares(_gather(selected, selected_specs), _gather(params, params_specs), batch, key)
        return _scatter(sums, selected_specs, mesh)

    return jax.shard_map(
        of_shard,
        mesh=mesh,
        in_specs=(unflatten(selected_specs), unflatten(params_specs), P(mesh.axis_names), P()),
        out_specs=unflatten(selected_specs),
        check_vma=False,
    )


def _specs(tree: Params, mesh: Mesh) -> dict[str, P]:
    """Return the PartitionSpec of every leaf by path; P() for one that is not sharded on the mesh."""

    def of_leaf(leaf: jax.Array) -> P:
        sharding = leaf.sharding
        return sharding.spec if isinstance(sharding, NamedSharding) and sharding.mesh == mesh else P()

    return {path: of_leaf(leaf) for path, leaf in flatten(tree).items()}


def _gather(tree: Params, specs: Mapping[str, P]) -> Params:
    """Return the full leaves on every device."""

    def gathered(path: str, leaf: jax.Array) -> jax.Array:
        for axis, names in enumerate(specs[path]):
            if names is not None:
                leaf = jax.lax.all_gather(leaf, names, axis=axis, tiled=True)
        return leaf

    return map_leaves(gathered, tree)


def _scatter(tree: Params, specs: Mapping[str, P], mesh: Mesh) -> Params:
    """Sum full leaves over the devices; each device keeps the part that a leaf's spec assigns to it."""
    waiting: dict[tuple, dict] = {}  # leaves by the mesh axes still to be summed over, with one psum for each group
    for path, leaf in flatten(tree).items():
        summed = set()
        for axis, names in enumerate(specs[path]):
            if names is not None:
                leaf = jax.lax.psum_scatter(leaf, names, scatter_dimension=axis, tiled=True)
                summed |= set(names) if isinstance(names, tuple) else {names}
        waiting.setdefault(tuple(name for name in mesh.axis_names if name not in summed), {})[path] = leaf
    parts = [jax.lax.psum(leaves, axes) if axes else leaves for axes, leaves in waiting.items()]
    return unflatten({path: leaf for part in parts for path, leaf in part.items()})
