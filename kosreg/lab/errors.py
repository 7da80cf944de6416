"""What can go wrong in a lab. The text says what to do."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do what was asked."""


class NotConverged(LabError):
    """The nodes still differ. The text says who, and in what."""
