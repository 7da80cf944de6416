"""How long Hypothesis looks: no deadline for one example (other work shares the machine), bounded numbers of them.

`HYPOTHESIS_PROFILE=thorough pytest tests/property` looks twenty times as long.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("kosreg", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("kosreg"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "kosreg"))
