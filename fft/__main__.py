"""`python -m fft` is the command `fft`."""

import sys

from fft.cli import main

sys.exit(main())
