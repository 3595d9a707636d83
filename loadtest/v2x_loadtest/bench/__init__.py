"""Benchmarks are programs, never timed tests: interleaved rounds, median and range, the peer in the same run."""
