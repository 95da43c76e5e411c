"""The commands of ``crnas``."""

# Each one is main(argv) of the module of its name beside this file.
COMMANDS = {
    "search": "search an architecture, or run the whole procedure of a recipe",
    "train": "train or evaluate a detector, a classifier or a supernet",
    "inspect": "look at data sets before anything is trained on them",
    "predict": "detect objects in pictures and videos",
    "analyze": "count multiply-adds and parameters, module by module",
    "latency": "measure latencies on this device, for a search on another one",
    "convert": "convert ImageNet weights into those of a backbone",
    "remap": "put trained weights into another architecture or a supernet",
    "export": "export a detector as TorchScript or ONNX",
    "sketch": "draw architectures, side by side",
    "erf": "draw effective receptive fields, side by side",
    "plot": "draw figures of trainings and searches",
    "compare": "say whether one trained detector is better than another, with intervals",
    "visualize": "draw detections beside the ground truth",
    "submit": "submit a training or a search as a job on Slurm",
}
