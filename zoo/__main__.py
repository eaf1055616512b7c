"""``python -m zoo`` is the console script ``zoo``."""

from zoo.cli import main

main()
