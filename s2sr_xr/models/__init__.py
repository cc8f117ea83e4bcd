"""Models: their facts, their networks, and the registry that finds them."""
