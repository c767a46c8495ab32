"""``python -m rflbat`` is the command ``rflbat``."""

import sys

from rflbat.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
