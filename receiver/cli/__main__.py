"""``python -m receiver.cli``: the command line without an installed entry point."""

from receiver.cli import main

main()
