"""Sums over examples on several devices: rows are split, parameters may be, and nothing of a batch ever travels.

Every device sums over its own rows of a batch. Parameters that are sharded (as in FSDP) are gathered for the pass, and
the sums scattered the way the parameters lie. A `lax.scan` over a batch that XLA shards by itself would gather every
activation and every cotangent of the batch; `shard_map` gathers parameters alone.
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
    """The tree with every leaf split over all devices of the mesh, along its largest axis that they divide (FSDP)."""

    def placed(leaf: jax.Array) -> jax.Array:
        sizes = [size if size % mesh.size == 0 else 0 for size in leaf.shape]
        at = sizes.index(max(sizes)) if any(sizes) else None
        spec = P(*(mesh.axis_names if axis == at else None for axis in range(leaf.ndim)))
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree)


def split_rows(batch: Labelled, mesh: Mesh) -> Labelled:
    """A host batch [B, ...] with its rows split over every axis of the mesh.

    Raises: InputError for rows that the devices do not divide.
    """
    rows = len(batch.weight)
    if rows % mesh.size:
        raise InputError(
            f"{mesh.size} devices cannot share batches of {rows} rows evenly: choose a --batch-size that {mesh.size} "
            "divides"
        )
    return jax.device_put(batch, NamedSharding(mesh, P(mesh.axis_names)))


def sharded(squares: Squares, mesh: Mesh, asked: Params, params: Params) -> Squares:
    """`squares(asked, params, batch, key)` with the rows of a batch split over every axis of the mesh.

    Leaves of `asked` and `params` that lie sharded on the mesh are gathered inside, and the sums of such a leaf of
    `asked` come back sharded like it; other leaves are on every device. Batches come from `split_rows`.
    """
    asked_specs, params_specs = _specs(asked, mesh), _specs(params, mesh)

    def of_shard(asked: Params, params: Params, batch: Labelled, key: jax.Array) -> Params:
        sums = squares(_gather(asked, asked_specs), _gather(params, params_specs), batch, key)
        return _scatter(sums, asked_specs, mesh)

    return jax.shard_map(
        of_shard,
        mesh=mesh,
        in_specs=(unflatten(asked_specs), unflatten(params_specs), P(mesh.axis_names), P()),
        out_specs=unflatten(asked_specs),
        check_vma=False,
    )


def _specs(tree: Params, mesh: Mesh) -> dict[str, P]:
    """The PartitionSpec of every leaf by path; P() for one that does not lie on the mesh."""

    def of_leaf(leaf: jax.Array) -> P:
        lies = leaf.sharding
        return lies.spec if isinstance(lies, NamedSharding) and lies.mesh == mesh else P()

    return {path: of_leaf(leaf) for path, leaf in flatten(tree).items()}


def _gather(tree: Params, specs: Mapping[str, P]) -> Params:
    def whole(path: str, leaf: jax.Array) -> jax.Array:
        for axis, names in enumerate(specs[path]):
            if names is not None:
                leaf = jax.lax.all_gather(leaf, names, axis=axis, tiled=True)
        return leaf

    return map_leaves(whole, tree)


def _scatter(tree: Params, specs: Mapping[str, P], mesh: Mesh) -> Params:
    """The sum over the devices of whole leaves, each device keeping the part that a leaf's spec gives it."""
    waiting: dict[tuple, dict] = {}  # leaves by the axes that they are still to be summed over, in one call each
    for path, leaf in flatten(tree).items():
        summed = set()
        for axis, names in enumerate(specs[path]):
            if names is not None:
                leaf = jax.lax.psum_scatter(leaf, names, scatter_dimension=axis, tiled=True)
                summed |= set(names) if isinstance(names, tuple) else {names}
        waiting.setdefault(tuple(name for name in mesh.axis_names if name not in summed), {})[path] = leaf
    parts = [jax.lax.psum(leaves, axes) if axes else leaves for axes, leaves in waiting.items()]
    return unflatten({path: leaf for part in parts for path, leaf in part.items()})
