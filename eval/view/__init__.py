"""A local server for looking at many runs: `python -m eval view RUNS_DIR`. It only reads."""
