"""Run the command line as a module: `python -m hpcpar --help`."""

import sys

from hpcpar.cli import main

if __name__ == "__main__":
    sys.exit(main())
