#!/usr/bin/env python3
"""Draw the effective receptive fields of detectors: `crnas erf`."""

from crnas_d2.commands.erf import main

if __name__ == "__main__":
    main()
