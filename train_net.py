#!/usr/bin/env python3
"""Train or evaluate a detector: `crnas train`."""

from crnas_d2.commands.train import main

if __name__ == "__main__":
    main()
