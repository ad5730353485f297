"""`python -m layergroups` is the command `layergroups`."""

import sys

from layergroups.cli import main

if __name__ == "__main__":
    sys.exit(main())
