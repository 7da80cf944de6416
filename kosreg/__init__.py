"""kosreg: a peer-to-peer federated registry for services and agents."""

__version__ = "0.1.0"
