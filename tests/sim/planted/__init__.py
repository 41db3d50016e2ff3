"""Bugs planted into the product, to see that the simulated worlds find them."""
