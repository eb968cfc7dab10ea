"""`python -m privfed.cli`."""

from __future__ import annotations

import sys

from privfed.cli.app import main

sys.exit(main())
