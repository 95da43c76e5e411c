"""All in which the commands that the tests run differ from those in the documents, but for reduced.py."""

import re
import shlex
import subprocess

from crnas_d2.config import read_config
from crnas_d2.config_files import find_config_file
from crnas_d2.procedure import is_recipe
from crnas_d2.procedure.recipe import find_config

# What cannot run here, word for word, and why.
NOT_RUN = {
    "make install": "builds the environment in which the tests run; see tests/tools/test_install.py",
    "make test": "is what runs this",
    "pip install -e .": "would change the environment in which the tests run",
    'pip install -e ".[fast]"': "would change the environment in which the tests run",
    'export PATH="$PWD/.venv/bin:$PATH"': "chooses the Python, which is that of the tests here",
    "tensorboard --logdir output/search": "is a server, which does not end",
}

# Keys that go to all trainings and searches, behind the command's own.
SMALL = {
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MAX_SIZE_TRAIN": "96",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MAX_SIZE_TEST": "96",
    "INPUT.CLASSIFICATION.CROP_SIZE": "32",
    "INPUT.CLASSIFICATION.TEST_SIZE": "32",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": "40",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "40",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": "20",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "20",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "8",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
    "DATASETS.ARCHVAL.SIZE": "2",
    "DATALOADER.NUM_WORKERS": "0",
    "SOLVER.IMS_PER_BATCH": "4",
    "SOLVER.BASE_LR": "1e-6",
    "SOLVER.MAX_ITER": "2",
    "SOLVER.STEPS": "()",
    "SOLVER.WARMUP_ITERS": "1",
    "TEST.EVAL_PERIOD": "0",
    "SEARCH.COST_SIZE": "(64, 64)",
    "SEARCH.LATENCY.RUNS": "1",
    "SEARCH.LATENCY.WARM_UP": "0",
    "SEARCH.BN.BATCHES": "1",
    "SEARCH.BN.IMAGES_PER_BATCH": "2",
}

# Of a recipe. After two iterations all networks have AP 0, of which a short list takes the baseline's, and
# the documents show what was found beside it.
OF_A_RECIPE = {"SEARCH.RECIPE.SHORTLIST.CODES": "0", "SEARCH.RECIPE.SEEDS": "1"}

# ResNet50 has this width in all files of weights, and in all networks that are no supernets.
WIDTHS = {
    "MODEL.RESNETS.WIDTH_PER_GROUP": "8",
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "16",
}

# Keys that make supernets, and what is searched over them, small enough.
THIN = {
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "16",
    "MODEL.SUPERNET.OPERATIONS": "[0, 1]",
    "MODEL.SUPERNET.TEST_PATHS": "[]",
    "SEARCH.SURVIVORS": "1",
}

THIN_FAMILIES = {
    "resnet": {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "8",
        "MODEL.RESNETS.WIDTH_PER_GROUP": "8",
        "MODEL.SUPERNET.STAGE_CHOICES": "[[1, 2, 3], [2, 3, 4], [2, 5, 6, 19], [2, 3, 7]]",
    },
    "mobilenetv2": {
        "MODEL.CR.WIDTH_MULTIPLIER": "0.25",
        "MODEL.SUPERNET.STAGE_CHOICES": "[[1], [1], [2], [2, 3], [3, 4], [3, 4], [3, 4], [1], [1], [1]]",
    },
}

# Behind a dry run, which is that of the document but for the few images that there are.
DRY_RUN = ["DATASETS.ARCHVAL.SIZE"]
# Behind one that runs the networks, besides.
MEASURED = [key for key in SMALL if key.startswith("INPUT.M")]

# The scripts, by the command of crnas that each one is.
SCRIPTS = {
    "train_net.py": "train",
    "search_net.py": "search",
    "tools/remap_weights.py": "remap",
    "tools/visualize_erf.py": "erf",
    "tools/export_model.py": "export",
    "tools/submit.py": "submit",
}
MODULE = ["-m", "crnas_d2"]

# Commands that take all these keys, and one that takes those of the network, and all with an option.
RUN = ("train", "search", "latency")
FILL = "remap"
MATCHES = "--match-features"  # which runs the network on images

# What other commands get behind their own arguments. After two iterations no detection is sure.
MORE = {
    "erf": ["--size", "128", "--num-images", "2"],
    "export": [
        *("INPUT.MIN_SIZE_TEST", "128", "INPUT.MAX_SIZE_TEST", "192"),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    ],
}

# Options, by what their value becomes. A few steps are enough; one process stands for eight GPUs, one for all.
OPTIONS = {
    MATCHES: "2",
    "--num-gpus": "1",
    "--num-machines": "1",
    "--machine-rank": "0",
    "--dist-url": "auto",
    "--nproc-per-node": "1",
    "--nnodes": "1",
    "--rdzv-endpoint": "localhost:0",
}
# Of crnas submit: the local executor's, on this machine without a GPU.
SUBMIT_OPTIONS = {"--nodes": "1", "--gpus-per-node": None, "--slurm": None}


def reduce(words, folder):
    """The words of a command, as they are run in a folder.

    Raises:
        ValueError: a program that is not known here.
    """
    program, *arguments = words
    if program == "torchrun":
        launcher, script = split_torchrun(replace(arguments, OPTIONS))
        return ["-m", "torch.distributed.run", *launcher, *reduce_script(script, folder)]
    if program == "crnas":
        return [*MODULE, *reduce_command(arguments, folder)]
    if program == "python":
        return reduce_command(arguments, folder)
    raise ValueError(f"it is not known how to run {program!r}")


def reduce_command(arguments, folder):
    if not is_submit(arguments):
        return reduce_script(replace(arguments, OPTIONS), folder)
    cut = arguments.index("--")
    options = replace(arguments[1:cut], SUBMIT_OPTIONS)
    local = ["--cluster", "local", "--cpu-tasks-per-node", "1"]
    return [arguments[0], *options, *local, "--", *reduce_script(arguments[cut + 1 :], folder)]


def is_submit(arguments):
    """Whether the arguments of python submit a job."""
    name = arguments[2] if arguments[:2] == MODULE else arguments[0]
    return SCRIPTS.get(name, name) == "submit"


def unfold_make(arguments, root):
    """The commands of a target of the Makefile, but for those that build the environment.

    Args:
        arguments: the target, and variables.
    """
    run = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = map(shlex.split, run.stdout.replace("\\\n", " ").splitlines())
    return [["python", *words[1:]] for words in commands if "tools/install.py" not in words]


def split_torchrun(arguments):
    """Its own arguments, up to the script or the name behind ``-m crnas_d2``."""
    if "-m" in arguments:
        start = arguments.index("-m") + len(MODULE)
    else:
        start = next(i for i, word in enumerate(arguments) if word.endswith(".py"))
    return arguments[:start], arguments[start:]


def replace(arguments, values):
    """The arguments with these values of options; an option of None is left out."""
    kept = []
    words = iter(arguments)
    for word in words:
        if word not in values:
            kept.append(word)
            continue
        next(words)
        if values[word] is not None:
            kept += [word, values[word]]
    return kept


def reduce_script(arguments, folder):
    command = SCRIPTS.get(arguments[0], arguments[0])
    if "--dry-run" in arguments:
        keys = DRY_RUN + (MEASURED if "--measure" in arguments else [])
        return [*arguments, *(word for key in keys for word in (key, SMALL[key]))]
    if command not in (*RUN, FILL) or "--config-file" not in arguments:
        return [*arguments, *MORE.get(command, [])]
    config = arguments[arguments.index("--config-file") + 1]
    config = str(folder / config) if (folder / config).exists() else config
    cfg = read_config(config)
    keys = dict(SMALL) if command in RUN or MATCHES in arguments else {}
    if is_recipe(cfg):
        keys.update(OF_A_RECIPE)
        recipe = cfg.SEARCH.RECIPE
        supernet = recipe.STAGE_SUPERNET or recipe.DILATION_SUPERNET
        cfg = read_config(find_config("the recipe", supernet, find_config_file(config)))
    if "supernet" in cfg.MODEL.BACKBONE.NAME:
        keys.update({**THIN, **THIN_FAMILIES[cfg.MODEL.CR.FAMILY]})
    elif cfg.MODEL.CR.FAMILY == "resnet":
        keys.update(WIDTHS)
    if "SOLVER.REFERENCE_WORLD_SIZE" in arguments:
        keys["SOLVER.IMS_PER_BATCH"] = "16"  # of which the one process gets an eighth
    return [*arguments, *(word for pair in keys.items() for word in pair)]


def job_number(printed):
    """Of a job that crnas submit has started on this machine."""
    return int(re.search(r"local job (\d+)", printed)[1])
