"""What an experiment has measured so far, a JSON file each: one that was killed goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fft.record import write_json


def kept(path: Path, measure: Callable[[], Any]) -> Any:
    """The JSON value in `path`, measured and written first where there is none.

    The name of the file is all that says what was measured: for changed settings name another folder.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measure())
    return json.loads(path.read_text(encoding="utf-8"))
