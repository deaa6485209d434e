"""`python -m fft` is the command `fft`."""

import sys

from fft.commands.cli import main

sys.exit(main())
