"""Tests may import ``tests.simulation``: the same fakes serve unit tests and worlds."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.append(str(Path(__file__).parents[1]))
# No deadline for single examples: a machine that others use as well may hold any of them up.
settings.register_profile("wardround", deadline=None)
settings.load_profile("wardround")
