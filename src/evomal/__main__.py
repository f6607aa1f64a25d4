"""The command line as ``python -m evomal``."""

import sys

from evomal.cli import main

if __name__ == "__main__":  # workers import this module, too
    sys.exit(main())
