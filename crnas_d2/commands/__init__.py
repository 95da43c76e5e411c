"""The commands of ``crnas``. Each one is ``main(argv)`` in the module of its name."""
