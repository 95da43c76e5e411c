#!/usr/bin/env python3
"""Search an architecture: `crnas search`."""

from crnas_d2.commands.search import main

if __name__ == "__main__":
    main()
