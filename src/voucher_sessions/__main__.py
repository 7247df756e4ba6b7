"""``python -m voucher_sessions``."""

import sys

from voucher_sessions.cli import main

if __name__ == "__main__":  # the demo's workers import this file too, under another name
    sys.exit(main())
