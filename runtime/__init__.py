"""The part that travels to the node: standard library only, Python 3.8 or newer, never imports `reconciler`.

`runtime.api` is for the programs of jobs; the rest is driven by `bootstrap.sh VERB` (docs/node-protocol.md).
"""
