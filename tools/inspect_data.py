#!/usr/bin/env python3
"""Show the content of datasets on one page: `crnas inspect`."""

from crnas_d2.commands.inspect import main

if __name__ == "__main__":
    main()
