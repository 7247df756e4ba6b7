"""Benchmarks: the time of a call, beside the time of an empty script and of other ways to lock an amount.

    python -m benchmarks

README.md beside this file explains the method.
"""

import sys
from pathlib import Path

# The helper that starts Redis servers is part of the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
