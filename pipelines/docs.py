"""`python -m pipelines.docs`: the documentation of the marts, as `make docs` writes it.

What belongs here: where the page goes. What does not: making it (see `assets.finance.docs`).
"""

from __future__ import annotations

import sys

from assets.finance.docs import build_docs
from assets.finance.manifest import cache_folder
from engine.errors import ComplineError
from pipelines.settings import load_settings


def main() -> int:
    """Write the page below the home and say where it is."""
    try:
        home = load_settings().home
        sys.stdout.write(f"{build_docs(cache_folder(home), home / 'docs')}\n")
    except ComplineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
