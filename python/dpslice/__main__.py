"""``python -m dpslice``: the command line."""

import sys

from dpslice.cli import main

if __name__ == "__main__":
    sys.exit(main())
