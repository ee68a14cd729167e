"""Hosts: the models that carry memory. They know the contract of a variant, and no variant by name."""
