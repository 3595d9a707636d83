"""Simulated devices, scenes, audit, score and benchmarks."""
