"""Images with shapes of their own in each, and copies of them."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

SIZE = (160, 120)


def make_image(seed):
    """Thirty ellipses of any color, size and place."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", SIZE, tuple(rng.integers(256, size=3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(30):
        x, y = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
        w, h = rng.uniform(5, 30, 2)
        color = tuple(rng.integers(256, size=3).tolist())
        draw.ellipse((x - w, y - h, x + w, y + h), fill=color)
    return image.filter(ImageFilter.GaussianBlur(1))


def as_jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


COPIES = {
    "same": lambda image: image,
    "mirrored": ImageOps.mirror,
    "cropped": lambda image: image.crop((5, 2, 153, 113)),
    "centre": lambda image: image.crop((16, 12, 144, 108)),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "faint": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "jpeg": lambda image: as_jpeg(image, 30),
    "small": lambda image: image.resize((80, 60)),
    "square": lambda image: image.resize((100, 100)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "gray": lambda image: image.convert("L"),
}
