"""One module per command: its `Flags`, `parse`, and `execute(flags, console) -> (JSON-able result, exit code)`."""
