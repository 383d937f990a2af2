"""The quick start: a tiny VLM from nothing, warm-started, trained with PPO without and with curiosity, compared.

Reading order: `recipe.py` (constants), `pretrain.py` (stage A), `warm_start.py` (stage B), `pipeline.py` (the whole).
"""
