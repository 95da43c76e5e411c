#!/usr/bin/env python3
"""Export a detector as TorchScript or ONNX: `crnas export`."""

from crnas_d2.commands.export import main

if __name__ == "__main__":
    main()
