"""`python -m evomal.cli`, the same as the command `evomal`."""

import sys

from evomal.cli import main

sys.exit(main())
