#!/usr/bin/env python3
"""Convert ImageNet weights into those of a backbone: `crnas convert`."""

from crnas_d2.commands.convert import main

if __name__ == "__main__":
    main()
