#!/usr/bin/env python3
"""One picture of a detector's results: `crnas visualize`."""

from crnas_d2.commands.visualize import main

if __name__ == "__main__":
    main()
