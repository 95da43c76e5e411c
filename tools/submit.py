#!/usr/bin/env python3
"""Submit a job to Slurm: `crnas submit`."""

from crnas_d2.commands.submit import main

if __name__ == "__main__":
    main()
