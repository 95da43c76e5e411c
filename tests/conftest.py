import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

# Two threads that share their cores with other programs wait for each other most of the time.
torch.set_num_threads(1)
