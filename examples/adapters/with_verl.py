"""Data for verl: `python examples/adapters/with_verl.py` writes train.parquet; the loop is named in with_verl.yaml."""

from datasets import Dataset

from pxr_agents.adapters.verl import rows

Dataset.from_list(rows("search", [f"train-{number}" for number in range(512)])).to_parquet("train.parquet")
