"""`python -m registry_export.cli`."""

from registry_export.cli import main

main()
