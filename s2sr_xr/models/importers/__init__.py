"""Weights that others published."""
