"""Readers: what a catalogue or a product holds, as a tree of lazy reflectance."""
