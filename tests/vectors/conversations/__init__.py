"""Recorded conversations: whole conversations between two nodes of one version, byte for byte, by version.

See tests/vectors/README.md. `python -m tests.vectors.conversations` records those of the version at hand.
"""
