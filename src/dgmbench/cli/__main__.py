"""`python -m dgmbench.cli`, where the command is not on the path."""

from dgmbench.cli import main

main()
