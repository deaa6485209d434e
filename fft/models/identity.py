"""The identity of weights: a hash of a checkpoint's parameters."""

import hashlib

import numpy as np

from fft.core.tree import flatten
from fft.models import Checkpoint


def base_sha256(checkpoint: Checkpoint) -> str:
    """Return the sha256 of a checkpoint's parameters, equal for equal weights under equal paths."""
    digest = hashlib.sha256()
    for path, leaf in flatten(checkpoint.params).items():
        digest.update(path.encode())
        digest.update(np.asarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
