"""Measurements that are no tests: each stage next to a literal, slow form of the public code."""
