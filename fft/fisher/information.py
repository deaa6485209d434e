"""Fisher information on disk: the artefact that `fft fisher` writes."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from fft.core.errors import InputError
from fft.core.tree import Params, depth_of, flatten, unflatten
from fft.disk.artefact import load_artefact, save_artefact
from fft.disk.folder import REQUEST
from fft.fisher.storage import pack, unpack

KIND = "fisher"


def save_fisher(folder: str | Path, diagonal: Params, storage: str, provenance: dict[str, Any]) -> None:
    """Write the diagonal in a storage format, with its provenance.

    `provenance` has at least base_sha256, model, estimator, examples, trace and data.

    Raises: MachineError when the disk is full or the folder cannot be written.
    """
    save_artefact(folder, pack(diagonal, storage), {"kind": KIND, "storage": storage, **provenance})


def load_fisher(
    folder: str | Path, params: Params | None = None, base_sha256: str | None = None
) -> tuple[Params, dict[str, Any]]:
    """Return the diagonal as stored (see fft.fisher.storage) and its provenance.

    With `params` (the base's leaves) and `base_sha256`, also check that it was measured at this base.
    Raises: InputError for a folder that holds something else or is damaged, and for another base.
    """
    if not (Path(folder) / "provenance.json").is_file():
        state = "a pass that is not finished: repeat its command" if (Path(folder) / REQUEST).is_file() else "none"
        raise InputError(f"expected Fisher information in {folder}, as `fft fisher --out` writes it; there is {state}")
    stored, provenance = load_artefact(folder)
    if provenance.get("kind") != KIND:
        raise InputError(f"{folder} holds no Fisher information: give a folder that `fft fisher` wrote")
    if params is not None:
        _refuse_other_shapes(folder, stored, params)
    if base_sha256 is not None and provenance["base_sha256"] != base_sha256:
        raise InputError(
            f"the Fisher information in {folder} was measured at other weights, those of {provenance['model']}; "
            "measure it at this base with `fft fisher`"
        )
    return stored, provenance


def _refuse_other_shapes(folder: str | Path, stored: Params, params: Params, optional: tuple[str, ...] = ()) -> None:
    """Reject a diagonal with a leaf that `params` lacks or has in another shape.

    Leaves whose path starts with one of `optional` may be missing in `params`.
    """
    leaves = flatten(params)
    for path, leaf in flatten(unpack(stored)).items():
        if path not in leaves and path.startswith(optional):
            continue
        if path not in leaves or leaf.shape != leaves[path].shape:
            in_base = f"is {leaves[path].shape}" if path in leaves else "is missing"
            raise InputError(
                f"the Fisher information in {folder} is of another architecture: it has {path} {leaf.shape}, which "
                f"{in_base} in this base; give one of the same architecture"
            )


def load_previous(folder: str | Path, params: Params) -> tuple[Params, dict[str, Any]]:
    """Load the Fisher information of an earlier task, to be added to that at `params` (see `accumulated`).

    It may be of other weights, but must be of the same architecture; `params` may lack its heads.
    Raises: InputError as load_fisher does, and for leaves other than heads that `params` lacks.
    """
    stored, provenance = load_fisher(folder)
    _refuse_other_shapes(folder, stored, params, optional=("heads/",))
    return stored, provenance


def tasks_of(provenance: dict[str, Any]) -> str:
    """Describe the tasks of an artefact: `'b', added to 0.9 x that of 'a'`."""
    *earlier, last = (repr(name) for name in provenance["tasks"])
    if not earlier:
        return last
    return f"{last}, added to {provenance['previous']['gamma']:g} x that of {', '.join(earlier)}"


def accumulated(previous: Params, gamma: float, diagonal: Params) -> Params:
    """Return γ F_previous + F over the leaves of either: online EWC (Schwarz et al. 2018, arXiv 1805.06370, section 3).

    Raises: InputError for a leaf whose shape differs between the two.
    """
    old, new = flatten(previous), flatten(diagonal)
    for path in old.keys() & new.keys():
        if old[path].shape != new[path].shape:
            raise InputError(f"the previous Fisher's {path} is {old[path].shape}, this one's {new[path].shape}")
    zero = jnp.zeros(())
    return unflatten({path: gamma * old.get(path, zero) + new.get(path, zero) for path in {**old, **new}})


def by_place(diagonal: Params, blocks: int) -> list[dict[str, Any]]:
    """Sum the information by layer and role: [{"layer", "role", "share", "mean", "parameters"}], embeddings first.

    Kernel and bias of one operation are one place. `share` is of the trace; `mean` is per parameter.
    """
    places: dict[tuple[str, str], list] = {}
    order = sorted(
        flatten(diagonal).items(), key=lambda pair: (depth_of(pair[0], blocks), pair[0].startswith("heads/"))
    )
    for path, leaf in order:
        places.setdefault(place_of(path), []).append(leaf)
    sums = {place: sum(float(jnp.sum(leaf)) for leaf in leaves) for place, leaves in places.items()}
    trace = sum(sums.values())
    rows = []
    for (layer, role), leaves in places.items():
        size, total = sum(leaf.size for leaf in leaves), sums[layer, role]
        share = total / trace if trace else 0.0
        rows.append({"layer": layer, "role": role, "share": share, "mean": total / size, "parameters": size})
    return rows


def place_of(path: str) -> tuple[str, str]:
    """Return the (layer, role) of a leaf.

    Examples: ("embeddings", "word"), ("block 3", "query"), ("top", "pooler"), ("head new", "head out").
    """
    parts = path.split("/")
    if parts[0] == "layers":
        return f"block {parts[1]}", parts[-2]
    if parts[0] == "heads":
        return f"head {parts[1]}", f"head {parts[-2]}"
    return ("embeddings", parts[-2]) if parts[0] == "embed" else ("top", parts[0])
