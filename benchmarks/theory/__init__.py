"""Measurements of what docs/theory.md proves: how many draws, and which gradient."""
