"""Build the wheel, install it beside its dependencies, and run mypy --strict on what was installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Return mypy's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        wheel_command = [
            "pip",
            "--disable-pip-version-check",
            "-q",
            "wheel",
            "--no-deps",
            "-w",
            folder,
            str(ROOT),
        ]
        subprocess.run([sys.executable, "-m", *wheel_command], check=True)
        wheel = next(Path(folder).glob("kvsim-*.whl"))
        target = Path(folder) / "site"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        cache = ROOT / ".mypy_cache"
        command = [
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(cache),
            "-p",
            "kvsim",
        ]
        return subprocess.run([sys.executable, "-m", *command], cwd=target, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
