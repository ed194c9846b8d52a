"""Make `from reference.loop import run` work: tests/ is no package, and pytest does not add it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
