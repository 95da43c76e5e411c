"""Detect objects in images and videos with a trained detector.

crnas predict --model output/search --input photos --output predictions
crnas predict --model output/found_seed2 --input a.jpg b.png 'more/**/*.jpg' --output predictions
crnas predict --model final.yaml --input street.mp4 --output predictions --conf-threshold 0.3

--model is the folder of a search, whose final.yaml is taken; the folder of a training, with its
last checkpoint; or a config with MODEL.WEIGHTS. No dataset has to be there.

--input are files, patterns, and folders with all that is below them. The output folder receives

NAME                each image under its own name, with boxes, names and scores, and masks where
                    the detector has them; each video as NAME.mp4
predictions.json    all that is drawn, as a dataset in COCO's format: images, categories, and
                    annotations with scores

An image that cannot be read is named, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from detectron2.structures import Instances

from ..data.images import Source, UnreadableError, find_sources, read_pixels
from ..data.video import Video
from ..engine.predicting import Predictor, read_trained
from ..files import raise_faults, write_atomically
from ..paths import real_path
from ..report.drawing import draw_objects
from ..report.predictions import PREDICTIONS_FILE, Predictions, is_of_predictions
from .command_line import add_conf_threshold, command, command_parser

try:
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]  # main() asks for it

# Options for writing images, by extension. Others are written as PNG, with .png appended
FORMATS: dict[str, dict[str, Any]] = {
    **dict.fromkeys((".jpg", ".jpeg"), {"format": "JPEG", "quality": 95}),
    ".bmp": {"format": "BMP"},
    ".png": {"format": "PNG"},
    **dict.fromkeys((".tif", ".tiff"), {"format": "TIFF", "compression": "tiff_deflate"}),
    ".webp": {"format": "WEBP", "quality": 95},
}


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="folder of a search or a training, or config"
    )
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="images, videos, folders"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    add_conf_threshold(parser, "to draw and to write")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args(argv)
    if cv2 is None:
        parser.error("OpenCV draws the images: pip install opencv-python-headless")

    sources = find_sources(args.input, leave_out=args.output)
    outputs = plan_outputs(sources, args.output)
    predictor = Predictor(read_trained(args.model, args.opts))
    predictions = Predictions(predictor.class_names)
    path = os.path.join(args.output, PREDICTIONS_FILE)
    os.makedirs(args.output, exist_ok=True)
    write_atomically(path, predictions.to_json())  # from here on the folder is recognized as ours
    faults = []
    for source, output in outputs.items():
        try:
            counts = predict(source, output, predictor, args.conf_threshold, predictions)
        except UnreadableError as error:
            faults.append(str(error))
            print(error, flush=True)
        else:
            summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            print(f"{source.path}: {summary or 'nothing'}", flush=True)
    write_atomically(path, predictions.to_json())
    print(f"wrote {path}")
    raise_faults("inputs that cannot be read", faults)


def plan_outputs(sources: Sequence[Source], folder: str) -> dict[Source, str]:
    """Get the output path of each image or video.

    Raises:
        ValueError: two have the same path, or it is that of an input, or of a file that no earlier
            run has left.
    """
    is_ours = is_of_predictions(os.path.join(folder, PREDICTIONS_FILE))
    inputs = {real_path(source.path) for source in sources}
    by_place: dict[str, Source] = {}
    outputs = {}
    for source in sources:
        stem, extension = os.path.splitext(source.name)
        name = source.name
        if source.is_video:
            name = f"{stem}.mp4"
        elif extension.lower() not in FORMATS:
            name += ".png"
        outputs[source] = path = os.path.join(folder, name)
        other = by_place.setdefault(real_path(path), source)
        if other is not source:
            raise ValueError(
                f"inputs {other.path} and {source.path} would both become {path}; expected their "
                "common folder, or one at a time"
            )
    for path in (*outputs.values(), os.path.join(folder, PREDICTIONS_FILE)):
        if real_path(path) in inputs:
            raise ValueError(f"--output {folder}: {path} is an input; expected another folder")
        if os.path.lexists(path) and not is_ours:
            raise ValueError(
                f"--output {folder}: {path} is there, and not from an earlier run; expected "
                "another folder"
            )
    return outputs


def predict(
    source: Source,
    output: str,
    predictor: Predictor,
    threshold: float,
    predictions: Predictions,
) -> Counter[str]:
    """Write one image or video with its detections, and add these to the predictions.

    Returns:
        The number of detections of each class.
    """
    counts: Counter[str] = Counter()

    def show(pixels: np.ndarray, **more: Any) -> np.ndarray:
        found = detect(predictor, pixels, threshold)
        objects = predictions.add(source.name, found, **more)
        counts.update(predictor.class_names[instance["category_id"]] for instance in objects)
        return draw_objects(pixels, objects, predictor.class_names) if objects else pixels

    os.makedirs(os.path.dirname(output), exist_ok=True)
    if source.is_video:
        video = Video(source.path)
        with open_video(output, video.frames_per_second) as write:
            for index, pixels in enumerate(video):
                write(show(pixels, frame=index))
    else:
        write_image(output, show(read_pixels(source.path)))
    return counts


def detect(predictor: Predictor, pixels: np.ndarray, threshold: float) -> Instances:
    """Detect objects in an image.

    Args:
        predictor: the predictor.
        pixels: RGB image as uint8 of shape (h, w, 3).
        threshold: lowest score.
    """
    outputs = predictor(pixels[:, :, ::-1])
    if "instances" not in outputs:
        raise ValueError(
            f"the model gives {', '.join(outputs)}; expected a detector, which gives instances"
        )
    instances = outputs["instances"]
    return instances[instances.scores >= threshold]


def write_image(path: str, pixels: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **FORMATS[os.path.splitext(path)[1].lower()])
    write_atomically(path, buffer.getvalue())


@contextlib.contextmanager
def open_video(path: str, frames_per_second: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Open a video for writing RGB frames as uint8 of shape (h, w, 3), atomically.

    Raises:
        RuntimeError: this version of OpenCV cannot write such a file.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.mp4"
    writer = cv2.VideoWriter()

    def write(pixels: np.ndarray) -> None:
        size = (pixels.shape[1], pixels.shape[0])
        if not writer.isOpened() and not writer.open(
            temporary, cv2.VideoWriter.fourcc(*"mp4v"), frames_per_second, size
        ):
            raise RuntimeError(
                f"{path}: OpenCV cannot write an MPEG-4 video of {size[0]} x {size[1]}"
            )
        writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))

    try:
        yield write
        writer.release()
        os.replace(temporary, path)
    finally:
        writer.release()
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
