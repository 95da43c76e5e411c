#!/usr/bin/env python3
"""Test whether one trained detector is better than another: `crnas compare`."""

from crnas_d2.commands.compare import main

if __name__ == "__main__":
    main()
