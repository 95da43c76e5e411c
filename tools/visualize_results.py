#!/usr/bin/env python3
"""Draw a detector's results in one figure: `crnas visualize`."""

from crnas_d2.commands.visualize import main

if __name__ == "__main__":
    main()
