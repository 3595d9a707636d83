"""Fusion: a partition's log in, one true picture of the road out. Pure and deterministic."""
