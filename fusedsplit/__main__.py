"""`python -m fusedsplit`: the same as the `fusedsplit` command."""

import sys

from fusedsplit.cli import main

if __name__ == "__main__":
    sys.exit(main())
