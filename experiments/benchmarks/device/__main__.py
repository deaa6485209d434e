"""A check of a GPU or TPU, ready to run: whether `fft` computes there what it should, and how fast, beside torch.

    python -m experiments.benchmarks.device [--seconds 480] [--out device.json] [--toy]

It needs no data, no hub and no weights but random ones. In order of importance, each part in a process of its own:

    exact       training step, fused Fisher pass and attention of a small Llama against float64 on the CPU
    2048        LoRA (rank 16, all linear layers) and full steps of the shape of Llama-3.2-1B at T = 2048, bfloat16
    torch-2048  the same by transformers with SDPA and PEFT, eager and compiled; needs CUDA
    fisher      the fused Fisher pass of that model in units of one gradient of the batch
    4096        as 2048, at T = 4096
    bert        full steps of BERT-base at T = 128 and 512, bfloat16
    torch-bert, torch-4096    the last two in torch

Every part has a limit, and all of them together the deadline `--seconds`; a part that is cut off keeps what it had
measured. After every part the record is written to `--out`, and at the end it is printed as the last line, one JSON
object. `ratio` is our seconds a step over those of the faster form in torch. The share of the peak, `mfu`, is of the
operations in experiments.benchmarks.device.rates.

With `--toy` everything runs on the CPU with tiny models, so that nothing is left to fail on the device; its times mean
nothing. Flags are read by argparse, as images for accelerators often have no tyro.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from fft.disk.files import plain, write_json

PACKAGE = "experiments.benchmarks.device"
LIMITS = {
    "exact": 90,
    "2048": 110,
    "torch-2048": 120,
    "fisher": 80,
    "4096": 110,
    "bert": 50,
    "torch-bert": 70,
    "torch-4096": 120,
}
"""the parts in their order, and the most seconds of each on a device"""
LEAST = 10
"""seconds that must be left to start a part"""
ALONE = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}
"""for the processes of jax, each of which has the device to itself"""
ON_CPU = {"JAX_PLATFORMS": "cpu"}
"""for jax in a toy, and beside torch, where it only computes shapes"""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""for torch in a toy, whose threads would wait for each other where other processes hold a core"""


def measurements(name: str, toy: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place in the record, value) for all that a part measures, in this process."""
    if name.startswith("torch-"):
        from experiments.benchmarks.device import theirs

        return theirs.steps(name.removeprefix("torch-"), toy)
    from experiments.benchmarks.device import exact, ours

    ours.refuse_cpu(toy)
    match name:
        case "exact":
            return chain(ours.device(toy), exact.exact(toy))
        case "fisher":
            return ours.fisher(toy)
    return ours.steps(name, toy)


def started(name: str, toy: bool, output: Any, errors: Any) -> subprocess.Popen:
    """Start a part in a process and a session of its own."""
    command = [sys.executable, "-m", PACKAGE, "--part", name, *(["--toy"] if toy else [])]
    own = ON_CPU | ONE_THREAD if toy else ON_CPU if name.startswith("torch-") else ALONE
    return subprocess.Popen(command, stdout=output, stderr=errors, env={**os.environ, **own}, start_new_session=True)


def finish(name: str, toy: bool, limit: float, record: dict[str, Any]) -> None:
    """Run a part for at most `limit` seconds, and add to the record what it measured and how it ended."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = started(name, toy, output, errors)
        try:
            end = f"failed with {code}" if (code := process.wait(limit)) else "finished"
        except subprocess.TimeoutExpired:
            end = f"cut off after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        for line in output:
            if line.startswith("{") and line.endswith("}\n"):
                for place, value in json.loads(line).items():
                    add(record, place, value)
        errors.seek(0)
        about = {"end": end, "seconds": round(time.monotonic() - start, 1)}
        record["parts"][name] = about if end == "finished" else {**about, "stderr": errors.read()[-1500:]}


def add(record: dict[str, Any], place: str, value: Any) -> None:
    """Put a value into nested objects at a place, names separated by "/"."""
    *parents, name = place.split("/")
    for parent in parents:
        record = record.setdefault(parent, {})
    record[name] = value


def add_ratios(steps: Mapping[str, dict[str, Any]]) -> None:
    """Add to every step that both sides took the ratio of our seconds to those of the faster form in torch."""
    for forms in steps.values():
        theirs = [form["seconds"] for name, form in forms.items() if name.startswith("torch") and "seconds" in form]
        if theirs and "fft" in forms:
            forms["ratio"] = forms["fft"]["seconds"] / min(theirs)


def check(seconds: float, out: Path, toy: bool, parts: list[str]) -> dict[str, Any]:
    """Run the parts until the deadline, write the record after each of them, and return it."""
    deadline = time.monotonic() + seconds
    record: dict[str, Any] = {"toy": toy, "parts": {}, "left_out": []}
    for name in parts:
        left = deadline - time.monotonic()
        if left < LEAST:
            record["left_out"].append(name)
        else:
            finish(name, toy, left if toy else min(left, LIMITS[name]), record)
            print(f"{name}: {record['parts'][name]['end']} ({record['parts'][name]['seconds']} s)", file=sys.stderr)
        add_ratios(record.get("steps", {}))
        write_json(out, record)
    return record


def main() -> None:
    """Read the flags, run the check, and print the record."""
    parser = argparse.ArgumentParser(PACKAGE, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480, help="the deadline of all parts together")
    parser.add_argument("--out", type=Path, default=Path("device.json"), help="file of the record")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), help="the parts to run")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.part == "reference":
        from experiments.benchmarks.device import exact

        exact.reference(flags.folder, flags.toy)
    elif flags.part:
        for place, value in measurements(flags.part, flags.toy):
            print(json.dumps({place: plain(value)}), flush=True)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the part that is running ends too
        record = check(flags.seconds, flags.out, flags.toy, flags.only)
        print(json.dumps(plain(record)))
        sys.exit(any(part["end"].startswith("failed") for part in record["parts"].values()))


if __name__ == "__main__":
    main()
