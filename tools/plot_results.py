#!/usr/bin/env python3
"""Plot figures of trainings: `crnas plot`."""

from crnas_d2.commands.plot import main

if __name__ == "__main__":
    main()
