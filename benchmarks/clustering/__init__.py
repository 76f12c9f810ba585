"""Clustering at scale: quality, time and memory, against what learns and what does not."""
