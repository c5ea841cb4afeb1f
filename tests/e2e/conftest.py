"""Tests with real processes find their harness, `federation` and `wire`, beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
