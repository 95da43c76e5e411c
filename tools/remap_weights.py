#!/usr/bin/env python3
"""Put trained weights into another architecture: `crnas remap`."""

from crnas_d2.commands.remap import main

if __name__ == "__main__":
    main()
