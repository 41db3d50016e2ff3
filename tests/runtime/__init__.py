"""The node side, driven through `sh bootstrap.sh VERB` as the controlling side drives it."""
