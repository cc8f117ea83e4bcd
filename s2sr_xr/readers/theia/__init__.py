"""Theia and MAJA products as a tree."""
