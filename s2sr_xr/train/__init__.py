"""Training: pairs from the trees that inference reads, and recipes of the weights."""
