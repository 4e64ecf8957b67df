"""Entry point of the program `builder`."""

import sys

from builder.cli import main as cli
from builder.system import streams


def main() -> int:
    """Run the command line with streams that work; returns the exit code."""
    streams.prepare()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
