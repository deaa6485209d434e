"""The identity of weights: a hash of a checkpoint's parameters."""

import hashlib
from collections.abc import Mapping

import numpy as np

from fft.core.batch import Array
from fft.core.tree import flatten
from fft.models import Checkpoint


def base_sha256(checkpoint: Checkpoint) -> str:
    """Return the sha256 of a checkpoint's parameters, equal for equal weights under equal paths."""
    return _sha256(flatten(checkpoint.params))


def body_sha256(checkpoint: Checkpoint) -> str:
    """Return the sha256 of a checkpoint's parameters without heads: it is the same whichever heads were loaded."""
    heads = ("heads/", "unembed/", "pooler/")
    return _sha256({path: leaf for path, leaf in flatten(checkpoint.params).items() if not path.startswith(heads)})


def _sha256(leaves: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for path, leaf in leaves.items():
        digest.update(path.encode())
        digest.update(np.asarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
