#!/usr/bin/env python3
"""Count the multiply-adds and parameters of a detector: `crnas analyze`."""

from crnas_d2.commands.analyze import main

if __name__ == "__main__":
    main()
