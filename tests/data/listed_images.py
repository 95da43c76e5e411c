"""Images of a dataset that a test lists, and what a check finds in them."""

from PIL import Image

from crnas_d2.data.image_check import look_at_images

EXIF = 274


def good(size=(24, 16)):
    return Image.new("RGB", size, "red")


def errors(cfg):
    return [error for findings in look_at_images(cfg) for error in findings.errors]


def save_jpeg(path, size, orientation=1):
    exif = Image.Exif()
    exif[EXIF] = orientation
    good(size).save(path, exif=exif)
