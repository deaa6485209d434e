"""From sources of rows to batches on the host.

task_data = prepare(Data("reviews.csv"), checkpoint, "new", None, seed=0, max_length=None)
batches = TrainBatches(task_data.splits["train"], 32, 0, task_data.lengths, task_data.pad_id)
nll = task_data.task.terms(outputs_of(model, params, batches.batch(0)), batches.batch(0))

Names are imported when they are first used, so that the settings of data can be read without the rest.
"""

import importlib
from typing import TYPE_CHECKING

__all__ = [
    "Columns",
    "Encoded",
    "Rows",
    "TaskData",
    "Tokenizer",
    "TrainBatches",
    "bucket_lengths",
    "columns_of",
    "describe",
    "drop_overlap",
    "drop_shared",
    "encode",
    "eval_batches",
    "head_of",
    "joined",
    "length_of",
    "load_tokenizer",
    "make_splits",
    "open_source",
    "padding_waste",
    "prepare",
    "prepare_held_out",
    "prepare_scored",
    "prepare_unlabelled",
    "read_scored",
    "read_source",
    "task_of",
    "together",
]

if TYPE_CHECKING:
    from fft.data.batches import TrainBatches, bucket_lengths, eval_batches, padding_waste
    from fft.data.description import describe
    from fft.data.rows import Columns, Rows
    from fft.data.sources import open_source, read_source
    from fft.data.splits import drop_shared, make_splits
    from fft.data.task_data import (
        TaskData,
        columns_of,
        drop_overlap,
        head_of,
        length_of,
        prepare,
        prepare_held_out,
        prepare_scored,
        prepare_unlabelled,
        read_scored,
        task_of,
    )
    from fft.data.tokenize import Encoded, Tokenizer, encode, load_tokenizer
    from fft.data.union import joined, together

else:
    _HOMES = {
        "TrainBatches": "batches",
        "bucket_lengths": "batches",
        "eval_batches": "batches",
        "padding_waste": "batches",
        "describe": "description",
        "TaskData": "task_data",
        "columns_of": "task_data",
        "drop_overlap": "task_data",
        "head_of": "task_data",
        "length_of": "task_data",
        "prepare": "task_data",
        "prepare_held_out": "task_data",
        "prepare_scored": "task_data",
        "prepare_unlabelled": "task_data",
        "read_scored": "task_data",
        "task_of": "task_data",
        "Columns": "rows",
        "Rows": "rows",
        "open_source": "sources",
        "read_source": "sources",
        "drop_shared": "splits",
        "make_splits": "splits",
        "Encoded": "tokenize",
        "Tokenizer": "tokenize",
        "encode": "tokenize",
        "load_tokenizer": "tokenize",
        "joined": "union",
        "together": "union",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'fft.data' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"fft.data.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
