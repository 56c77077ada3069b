"""Detectors of people, by name. Each is a library's model; what is here is what goes in and what comes out."""

from gallery.footage.detectors.named import DEFAULT, detector_named
from gallery.footage.detectors.people import Detector, People

__all__ = ["DEFAULT", "Detector", "People", "detector_named"]
