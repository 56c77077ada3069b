"""Light, lens, sensor noise and JPEG compression of a drawn picture."""

import io
from random import Random

import numpy as np
from PIL import Image, ImageFilter


def develop(image: Image.Image, rng: Random) -> bytes:
    """Turn a clean RGB picture into a JPEG file like that of a surveillance camera."""
    size = image.size
    if rng.random() < 0.2:  # a camera far away
        factor = rng.uniform(0.6, 0.85)
        image = image.resize((int(size[0] * factor), int(size[1] * factor)), Image.Resampling.BOX)
        image = image.resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.4, 1.1)))
    pixels = np.array(image, dtype=np.float32)
    contrast = rng.uniform(0.82, 1.08)
    pixels *= contrast
    pixels += 128 * (1 - contrast)
    pixels *= _fall_off(size, rng)[..., None]
    pixels *= np.array([rng.uniform(0.94, 1.06) for _ in range(3)], dtype=np.float32)  # colour cast
    noise = np.random.default_rng(rng.getrandbits(63)).standard_normal(pixels.shape, dtype=np.float32)
    noise *= rng.uniform(1.5, 7.0)
    pixels += noise
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255, out=pixels).astype(np.uint8)).save(buffer, "JPEG", quality=rng.randint(50, 92))
    return buffer.getvalue()


def _fall_off(size: tuple[int, int], rng: Random) -> np.ndarray:
    """Brightness factors (height, width) float32 for a picture of size (width, height)."""
    brightness = rng.uniform(0.72, 1.15)
    across = np.linspace(-1, 1, size[0], dtype=np.float32) * rng.uniform(-0.14, 0.14)
    down = np.linspace(-1, 1, size[1], dtype=np.float32) * rng.uniform(-0.1, 0.1)
    return brightness * (1 + across[None, :] + down[:, None])
