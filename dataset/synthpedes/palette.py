"""Named colours of drawn pedestrians, 8-bit RGB."""

Rgb = tuple[int, int, int]

CLOTH_RGB: dict[str, Rgb] = {
    "black": (34, 33, 38),
    "white": (240, 240, 236),
    "grey": (134, 137, 142),
    "red": (200, 36, 42),
    "blue": (38, 92, 196),
    "navy": (28, 40, 92),
    "light blue": (142, 190, 232),
    "green": (46, 142, 72),
    "dark green": (34, 76, 52),
    "yellow": (244, 206, 48),
    "orange": (238, 124, 30),
    "pink": (240, 148, 184),
    "purple": (122, 62, 158),
    "brown": (112, 72, 42),
    "beige": (212, 190, 150),
}
HAIR_RGB: dict[str, Rgb] = {
    "black": (30, 25, 24),
    "brown": (96, 58, 32),
    "blonde": (228, 190, 106),
    "red": (172, 74, 30),
    "grey": (150, 150, 152),
    "white": (228, 228, 226),
}


def luminance(rgb: Rgb) -> float:
    """Return the brightness of an 8-bit colour, in [0, 255]."""
    return 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
