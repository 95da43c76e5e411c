#!/usr/bin/env python3
"""Multiply-adds and parameters of a detector: `crnas analyze`."""

from crnas_d2.commands.analyze import main

if __name__ == "__main__":
    main()
