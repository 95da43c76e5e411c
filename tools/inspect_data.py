#!/usr/bin/env python3
"""Show the content of data sets on one page: `crnas inspect`."""

from crnas_d2.commands.inspect import main

if __name__ == "__main__":
    main()
