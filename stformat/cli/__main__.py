"""``python -m stformat.cli``."""

from __future__ import annotations

from stformat.cli import main

if __name__ == "__main__":
    main()
