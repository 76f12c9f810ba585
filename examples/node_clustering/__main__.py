"""``python -m examples.node_clustering``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # piped output comes as it is made
    sys.exit(main())
