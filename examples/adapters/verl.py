"""Data for verl: `python examples/adapters/verl.py` writes train.parquet; verl.yaml beside this file has the loop."""

from datasets import Dataset

from pxr_agents.adapters.verl import rows

Dataset.from_list(rows("search", [f"train-{number}" for number in range(512)])).to_parquet("train.parquet")
