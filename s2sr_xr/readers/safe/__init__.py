"""SAFE products as a tree."""
