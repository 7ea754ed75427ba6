"""`python -m prefopt`, which is what torchrun and accelerate launch start."""

import sys

from prefopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
