"""Entry point of `python -m lrflow`."""

import sys

from lrflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
