"""Deterministic simulation: real engines (Replica, Trust, Mesh) on a virtual clock, a simulated network and disks, all
from one seed. `python -m tests.sim --help`."""
