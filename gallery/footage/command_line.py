"""The options of cropping on the command line, and what a run tells its user."""

import argparse
from pathlib import Path

from gallery.footage.cropping import CropReport, crop
from gallery.footage.detectors import DEFAULT
from gallery.footage.regions import parse_region
from gallery.footage.request import CropRequest
from utils.errors import UserError

DEFAULTS = CropRequest(sources=(), out=Path())
MANY = 20  # lines about bad files


def add_crop_options(parser: argparse.ArgumentParser) -> None:
    """Everything but the sources and the folder of the crops."""
    group = parser.add_argument_group("cropping")
    add = group.add_argument
    text = "of video between the frames that are looked at (default: %(default)s)"
    add("--every", type=float, default=DEFAULTS.every_s, metavar="SECONDS", help=text)
    text = f"{DEFAULT} (default), torchvision:MODEL, or onnx:FILE (YOLO layouts)"
    add("--detector", default=DEFAULT, metavar="NAME", help=text)
    text = "state_dict for torchvision:MODEL, instead of a download"
    add("--detector-weights", type=Path, metavar="FILE", help=text)
    text = "the detector's least, in [0, 1] (default: %(default)s)"
    add("--score", type=float, default=DEFAULTS.score, help=text)
    text = "of a person's box in the full frame (default: %(default)s)"
    add("--min-height", type=int, default=DEFAULTS.min_height, metavar="PX", help=text)
    text = "around a box, as a share of its size (default: %(default)s)"
    add("--padding", type=float, default=DEFAULTS.padding, metavar="SHARE", help=text)
    text = "only people who stand in this polygon, in pixels, e.g. 'cam1*=0,120 640,120 640,360 0,360'; also repeated"
    add("--region", action="append", default=[], metavar="[PATTERN=]X,Y ...", help=text)


def crop_as_told(args: argparse.Namespace, out: Path) -> CropReport:
    """Crop with the options of `add_crop_options` and the sources `args.source`. Raises: UserError."""
    request = CropRequest(
        sources=args.source,
        out=out,
        every_s=args.every,
        detector=args.detector,
        weights=args.detector_weights,
        score=args.score,
        min_height=args.min_height,
        padding=args.padding,
        regions=[parse_region(text) for text in args.region],
    )
    if request.weights is not None and not request.weights.is_file():
        raise UserError(f"{request.weights}: no such file")
    return crop(request)


def told(report: CropReport, out: Path) -> list[str]:
    """Lines for the user."""
    counts = {"new": report.new_crops, "of an earlier run": report.crops - report.new_crops}
    sources = {"pictures": report.pictures, "videos": report.videos, "unchanged": report.unchanged}
    crops, cropped = (", ".join(f"{n} {what}" for what, n in each.items() if n) for each in (counts, sources))
    lines = [f"{out}: {report.crops} crops ({crops or 'none'}); sources: {cropped or 'none'}"]
    lines += [f"  {bad.path}: {bad.reason}" for bad in report.bad[:MANY]]
    if len(report.bad) > MANY:
        lines.append(f"  and {len(report.bad) - MANY} more files that cannot be read")
    if report.other_kinds:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(report.other_kinds.items()))
        lines.append(f"  other files in the folders, left out: {kinds}")
    return [*lines, f"{report.seconds:.1f} s"]
