"""Make `from reference.loop import run` work (tests/ is no package), and let no test depend on wall time."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("kvsim", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kvsim")
