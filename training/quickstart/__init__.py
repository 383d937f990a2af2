"""The quick start: a tiny VLM from nothing, warm-started, trained with PPO without and with curiosity, compared.

Reading order: `recipe.py` (constants), `stages.py` (the supervised stages A and B), `pipeline.py` (the whole).
"""
