"""Lets a script end as soon as it has read its command line, which it prints as JSON."""

import argparse
import json
from functools import partialmethod


def parse_and_stop(parser, original, *args, **kwargs):
    print(json.dumps(vars(original(parser, *args, **kwargs)), default=str))
    raise SystemExit(0)


for name in ("parse_args", "parse_intermixed_args"):
    original = getattr(argparse.ArgumentParser, name)
    setattr(argparse.ArgumentParser, name, partialmethod(parse_and_stop, original))
