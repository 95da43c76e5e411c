"""Pictures with shapes of their own in each, and copies of them."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

SIZE = (160, 120)


def make_picture(seed):
    """Thirty ellipses of any colour, size and place."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", SIZE, tuple(rng.integers(256, size=3).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(30):
        x, y = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
        w, h = rng.uniform(5, 30, 2)
        color = tuple(rng.integers(256, size=3).tolist())
        draw.ellipse((x - w, y - h, x + w, y + h), fill=color)
    return picture.filter(ImageFilter.GaussianBlur(1))


def as_jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


COPIES = {
    "same": lambda picture: picture,
    "mirrored": ImageOps.mirror,
    "cropped": lambda picture: picture.crop((5, 2, 153, 113)),
    "centre": lambda picture: picture.crop((16, 12, 144, 108)),
    "bright": lambda picture: ImageEnhance.Brightness(picture).enhance(1.3),
    "faint": lambda picture: ImageEnhance.Contrast(picture).enhance(0.5),
    "jpeg": lambda picture: as_jpeg(picture, 30),
    "small": lambda picture: picture.resize((80, 60)),
    "square": lambda picture: picture.resize((100, 100)),
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(1)),
    "grey": lambda picture: picture.convert("L"),
}
