"""Data: from sources of rows to batches on the host.

task_data = prepare(Data("reviews.csv"), checkpoint, "new", None, seed=0, max_length=None)
batches = TrainBatches(task_data.splits["train"], 32, 0, task_data.lengths, task_data.pad_id)
nll = task_data.task.terms(outputs_of(model, params, batches.batch(0)), batches.batch(0))

Names are imported on first use, so the data settings load without the rest.
"""

from typing import TYPE_CHECKING

from fft.core.lazy import lazily

__all__ = [
    "Columns",
    "Encoded",
    "PackedBatches",
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
    from fft.data.encoded import Encoded
    from fft.data.packing import PackedBatches
    from fft.data.rows import Columns, Rows
    from fft.data.settings import columns_of
    from fft.data.sources import open_source, read_source
    from fft.data.splits import drop_shared, make_splits
    from fft.data.task_data import (
        TaskData,
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
    from fft.data.tokenize import Tokenizer, encode, load_tokenizer
    from fft.data.union import joined, together

else:
    _HOMES = {
        "TrainBatches": "fft.data.batches",
        "bucket_lengths": "fft.data.batches",
        "eval_batches": "fft.data.batches",
        "padding_waste": "fft.data.batches",
        "describe": "fft.data.description",
        "PackedBatches": "fft.data.packing",
        "TaskData": "fft.data.task_data",
        "columns_of": "fft.data.settings",
        "drop_overlap": "fft.data.task_data",
        "head_of": "fft.data.task_data",
        "length_of": "fft.data.task_data",
        "prepare": "fft.data.task_data",
        "prepare_held_out": "fft.data.task_data",
        "prepare_scored": "fft.data.task_data",
        "prepare_unlabelled": "fft.data.task_data",
        "read_scored": "fft.data.task_data",
        "task_of": "fft.data.task_data",
        "Columns": "fft.data.rows",
        "Rows": "fft.data.rows",
        "open_source": "fft.data.sources",
        "read_source": "fft.data.sources",
        "drop_shared": "fft.data.splits",
        "make_splits": "fft.data.splits",
        "Encoded": "fft.data.encoded",
        "Tokenizer": "fft.data.tokenize",
        "encode": "fft.data.tokenize",
        "load_tokenizer": "fft.data.tokenize",
        "joined": "fft.data.union",
        "together": "fft.data.union",
    }

    __getattr__ = lazily(__name__, _HOMES)
