"""The slots of a ring against a plain loop that keeps the last tokens of every row."""

import jax.numpy as jnp
import numpy as np
import pytest

from fft.models.reach import Slots, reach_in_ring

WINDOW, SLOTS = 4, 24


@pytest.mark.parametrize("cuts", [(3, 9), (1, 2, 3), (7,), (10, 11, 12)])
def test_a_ring_holds_the_last_tokens_and_each_is_written_once(cuts):
    """Two slots of one row are never the same, as the order in which they would be written is not defined."""
    mask = np.array([[1] * 14, [0] * 5 + [1] * 9, [0] * 12 + [1] * 2], np.int32)
    rings, seen = [{} for _ in mask], [0] * len(mask)  # {slot: position}, tokens read
    for start, end in zip((0, *cuts), (*cuts, mask.shape[1]), strict=True):
        used = np.zeros((len(mask), SLOTS), np.int32)
        used[:, :end] = mask[:, :end]
        slots = Slots(jnp.asarray(used), jnp.int32(start))
        allowed, written = map(np.asarray, reach_in_ring(jnp.asarray(mask[:, start:end]), WINDOW, slots))
        for row, ring in enumerate(rings):
            places = zip(mask[row, start:end], np.cumsum(mask[row, start:end]) - 1, strict=True)
            own = [seen[row] + place if real else None for real, place in places]
            keys = [ring.get(slot) for slot in range(WINDOW)] + own
            for token, position in enumerate(own):
                if position is not None:
                    near = [key is not None and 0 <= position - key < WINDOW for key in keys]
                    assert allowed[row, token].tolist() == near
            kept = [slot for slot in written[row] if slot < WINDOW]
            assert len(kept) == len(set(kept))
            ring.update({slot: p for slot, p in zip(written[row], own, strict=True) if slot < WINDOW})
            seen[row] += int(mask[row, start:end].sum())
            assert sorted(ring.values()) == list(range(max(0, seen[row] - WINDOW), seen[row]))
