"""What a call costs, beside what Redis itself costs and beside what a user would write instead.

    python -m benchmarks

See README.md beside this file for how it is measured.
"""

import sys
from pathlib import Path

# The servers are started as the tests start them.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
