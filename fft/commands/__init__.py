"""One file per command: its flags, `parse`, and `execute(flags, console) -> (JSON-able result, exit code)`."""
