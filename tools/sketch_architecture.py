#!/usr/bin/env python3
"""Sketch architectures in one figure: `crnas sketch`."""

from crnas_d2.commands.sketch import main

if __name__ == "__main__":
    main()
