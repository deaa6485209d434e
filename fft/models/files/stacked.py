"""Stored tensors that hold several of our parameters one below the other, such as query, key and value.

`stacks` maps a part of the stored names to the parts of the names in the key table that replace it, in the order of
the rows.
"""

from collections.abc import Mapping

import numpy as np

Stacks = Mapping[str, tuple[str, ...]]


def split_rows(tensors: Mapping[str, np.ndarray], stacks: Stacks) -> dict[str, np.ndarray]:
    """Return the tensors with stacked ones apart; one whose rows cannot be divided evenly stays as it is."""
    apart: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        stack = next((stack for stack in stacks if stack in name), None)
        if stack is None or len(value) % len(stacks[stack]):
            apart[name] = value
        else:
            pieces = np.split(value, len(stacks[stack]))
            apart |= {name.replace(stack, part): piece for part, piece in zip(stacks[stack], pieces, strict=True)}
    return apart


def join_rows(tensors: Mapping[str, np.ndarray], stacks: Stacks) -> dict[str, np.ndarray]:
    """Return the tensors as they are stored; the inverse of `split_rows`."""
    stack_of = {part: stack for stack, parts in stacks.items() for part in parts}
    joined: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        part = next((part for part in stack_of if part in name), None)
        if part is None:
            joined[name] = value
        elif part == stacks[stack_of[part]][0]:
            pieces = [tensors[name.replace(part, other)] for other in stacks[stack_of[part]]]
            joined[name.replace(part, stack_of[part])] = np.concatenate(pieces)
    return joined
