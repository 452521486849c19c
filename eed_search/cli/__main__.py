"""`python -m eed_search.cli` is `eed-search`."""

from eed_search.cli import main

main()
