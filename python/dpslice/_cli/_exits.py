"""Exit codes; 0 is success."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it
