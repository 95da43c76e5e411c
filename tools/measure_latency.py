#!/usr/bin/env python3
"""Measure latencies on this device, for a search on another one: `crnas latency`."""

from crnas_d2.commands.latency import main

if __name__ == "__main__":
    main()
