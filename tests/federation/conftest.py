"""Every test of this folder may make labs."""

from __future__ import annotations

pytest_plugins = ["kosreg.lab.pytest_plugin"]
