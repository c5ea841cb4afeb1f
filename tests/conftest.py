"""Tests may import ``tests.simulation``: the same fakes serve unit tests and worlds."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
