import io

from rich.console import Console

from fft.report.console import Board, Display, tee

SCORE = {"event": "score", "step": 4, "new": 0.5, "original": None, "combined": 0.5, "seconds": 1.0}
STEP = {"event": "step", "step": 1, "steps": 4, "loss": 0.25, "penalty": 0.0, "grad_norm": 1.0, "skipped_in_a_row": 0.0}


def test_plain_lines_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), width=100)
    with Display(console, "lora: ") as display:
        for event in (STEP, SCORE, {"event": "say", "text": "[red]left as it is[/red]"}):
            display.show(event)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "lora: step 1/4 loss 0.2500"
    assert lines[1] == "lora: step 4: new 0.500 on the probe (1 s)"
    assert lines[2] == "lora: [red]left as it is[/red]"


def test_tensorboard_gets_the_numbers_of_steps_and_scores(tmp_path):
    seen = []
    with Board(tmp_path) as board:
        show = tee(board.show, seen.append)
        for event in (STEP, SCORE, {"event": "say", "text": "x"}):
            show(event)
    (log,) = tmp_path.iterdir()
    content = log.read_bytes()
    assert b"score/new" in content and b"step/loss" in content and b"score/original" not in content
    assert len(seen) == 3


def test_tensorboard_makes_no_folder_before_there_is_a_number(tmp_path):
    with Board(tmp_path / "run" / "tensorboard") as board:
        board.show({"event": "say", "text": "reading the data"})
    assert not (tmp_path / "run").exists()
