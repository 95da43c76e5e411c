"""The commands of ``crnas``: each one is main(argv) of the module of its name."""
