"""Splits a task's rows into train, validation and test, so that no training text is scored.

A source with one split is split 80/10/10 by a hash of each row's text, so a text is in the same split in every run and
every source, no matter how many rows are added.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from fft.core.errors import InputError
from fft.core.naming import agreeing, counted
from fft.data.rows import Columns, Rows
from fft.data.sources import ROLES, Source, open_source

SPLIT_SEED = 0  # not the run's seed: all runs are scored on the same rows
_BANDS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


class Splits(NamedTuple):
    """Rows by role; `carved` are the roles whose rows were split off from the training split."""

    rows: dict[str, Rows]
    carved: tuple[str, ...]
    warnings: list[str]


def text_keys(rows: Rows) -> list[bytes]:
    """Return a hash of 16 bytes for each row's text (and pair)."""
    pairs = rows.pairs if rows.pairs is not None else [""] * len(rows.texts)
    return [
        hashlib.blake2b(f"{len(text)}:{text}{pair}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for text, pair in zip(rows.texts, pairs, strict=True)
    ]


def positions(rows: Rows, seed: int = SPLIT_SEED) -> list[float]:
    """Return a number in [0, 1) for each row, a seeded hash of its text (and pair)."""
    salt = seed.to_bytes(8, "little", signed=True)
    return [
        int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=salt).digest(), "big") / 2**64
        for key in text_keys(rows)
    ]


def make_splits(
    source: str,
    columns: Columns,
    validation: str | None = None,
    test: str | None = None,
    seed: int = SPLIT_SEED,
) -> Splits:
    """Read `source` and return its rows by role: train, validation, test.

    A role's rows come from the source named for it, else from the source's own split of that name, else from the
    training rows whose hash falls in its tenth. Training rows whose text is in validation or test are dropped and
    counted in a warning.

    Raises: InputError if a role has no rows.
    """
    opened = open_source(source)
    named = {"validation": validation, "test": test}
    rows = {role: _explicit(other, role, columns) for role, other in named.items() if other is not None}
    missing = []
    for role in ("validation", "test"):
        if role in rows:
            continue
        own = opened.spelled(role) if len(opened.splits) > 1 else None
        if own is None:
            missing.append(role)
        else:
            rows[role] = opened.read(own, columns)
    train, first = drop_shared(opened.read(training_split(opened), columns), rows.values())
    rows |= _carve(train, missing, seed)
    return Splits({role: rows[role] for role in ROLES}, tuple(missing), _warnings(rows, first))


def drop_shared(train: Rows, scored: Iterable[Rows]) -> tuple[Rows, int]:
    """Return `train` without rows whose text (and pair) is in `scored`, and the number dropped.

    Raises: InputError if no row remains.
    """
    scored_keys = {key for rows in scored for key in text_keys(rows)}
    remaining = [row for row, key in enumerate(text_keys(train)) if key not in scored_keys]
    if not remaining:
        raise InputError(f"{train.source}: every training row is also in the validation or test rows: give other rows")
    return train.take(remaining), len(train.texts) - len(remaining)


def _explicit(source: str, role: str, columns: Columns) -> Rows:
    """Read the rows of a source named for one role: its split of that name, or its only split. Raises: InputError."""
    opened = open_source(source)
    split = opened.spelled(role) or (opened.splits[0] if len(opened.splits) == 1 else None)
    if split is None:
        raise InputError(
            f"{source}: no split for {role}; there are {', '.join(opened.splits)}. Name one as SOURCE/SPLIT."
        )
    return opened.read(split, columns)


def training_split(opened: Source) -> str:
    """Return the training split of a source: its only split, or the one called train. Raises: InputError."""
    split = opened.splits[0] if len(opened.splits) == 1 else opened.spelled("train")
    if split is None:
        raise InputError(
            f"{opened.name}: no split 'train'; there are {', '.join(opened.splits)}. Name one as SOURCE/SPLIT."
        )
    return split


def _carve(train: Rows, missing: list[str], seed: int) -> dict[str, Rows]:
    """Split `train` into train and the `missing` roles by the hash of the text.

    A role that would get no text, as in a small file, takes the text whose hash is nearest to its tenth.

    Raises: InputError if there are too few different texts.
    """
    where = positions(train, seed)
    of_text = {key: at for key, at in zip(text_keys(train), where, strict=True)}
    if len(of_text) <= len(missing):
        raise InputError(
            f"{train.source}: {counted(len(of_text), 'different text is', 'different texts are')} too few to split off "
            f"{' and '.join(missing)} rows. Name sources for validation and test."
        )
    roles = {
        key: next((r for r in missing if _BANDS[r][0] <= at < _BANDS[r][1]), "train") for key, at in of_text.items()
    }
    for role in (*missing, "train"):
        if role not in roles.values():
            free = [key for key in roles if list(roles.values()).count(roles[key]) > 1]
            centre = sum(_BANDS[role]) / 2
            roles[min(free, key=lambda key: (abs(of_text[key] - centre), key))] = role
    keys = text_keys(train)
    return {role: train.take(i for i, key in enumerate(keys) if roles[key] == role) for role in (*missing, "train")}


def _warnings(rows: dict[str, Rows], dropped: int) -> list[str]:
    warnings = []
    if dropped:
        also = counted(dropped, "training row is", "training rows are")
        they = agreeing(dropped, "it is", "they are")
        warnings.append(f"{also} also in validation or test; {they} not trained on")
    both = set(text_keys(rows["validation"])) & set(text_keys(rows["test"]))
    if both:
        warnings.append(f"{counted(len(both), 'text is', 'texts are')} in both validation and test")
    return warnings
