"""Writes docs/records.md, the fields of every command's record, from fft/stats/records.py.

python -m experiments.records
"""

import dataclasses
import inspect
from pathlib import Path

import docstring_parser

from fft.disk.files import replace_file
from fft.stats import records

PAGE = Path(__file__).parents[1] / "docs" / "records.md"
PARTS = {
    records.RunRecord: (records.DataRecord, records.ContractRecord),
    records.SequenceRecord: (records.SequenceTaskRecord, records.StageRecord),
    records.CheckRecord: (records.CheckedTaskRecord, records.ExampleRecord),
    records.DiagnoseRecord: (records.PartRecord, records.RefitRecord, records.ProposalRecord),
    records.RepairRecord: (records.CandidateRecord,),
    records.MergeRecord: (),
    records.FisherRecord: (records.FisherRequestRecord,),
}
HEAD = """# The records

What a command did is in one JSON file, written last, so that its presence says that the work is finished. The fields
are those of the dataclasses in [fft/stats/records.py](../fft/stats/records.py), and this page is made from them by
`python -m experiments.records`. `--json` prints the same.

Numbers that are not finite are `null`. A `+` in a change is better, whatever the metric. A file that lacks a field is
older than the field, and is read as if the field had its default.

Every record has `git`, `versions` and `device`: {commit, dirty} of the fft that ran (`null` outside a checkout),
{python, package: version}, {platform, kind, count, threads}.
"""


def page() -> str:
    """Return the text of docs/records.md."""
    sections = [HEAD]
    for kind, parts in PARTS.items():
        sections.append(f"## {_headed(kind)}\n\n{_table(kind)}")
        sections += [f"### {_headed(part)}\n\n{_table(part)}" for part in parts]
    return "\n".join(sections)


def _headed(kind: type) -> str:
    """Return the heading and the introduction from a dataclass's docstring."""
    text = inspect.getdoc(kind) or ""
    name, colon, rest = text.partition(": ")
    return f"{name}\n\n{rest[:1].upper()}{rest[1:]}" if colon else text.removesuffix(".")


def _table(kind: type) -> str:
    """Return the table of a dataclass's fields and their descriptions."""
    texts = {param.arg_name: param.description for param in docstring_parser.parse_from_object(kind).params}
    rows = [
        f"| `{field.name}` | {_cell(texts.get(field.name) or '')} |"
        for field in dataclasses.fields(kind)
        if field.name != "environment"
    ]
    return "\n".join(["| field | what |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    replace_file(PAGE, page().encode())
