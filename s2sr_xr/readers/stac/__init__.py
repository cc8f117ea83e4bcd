"""STAC items as a tree."""
