"""``python -m crnas_d2 COMMAND ...``, which is also ``crnas COMMAND ...``."""

from crnas import main

if __name__ == "__main__":
    main()
