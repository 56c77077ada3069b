"""Selective scan, the recurrence at the heart of Mamba, with interchangeable backends. Its contract: interface.py."""

from models.selective_scan.interface import selective_scan

__all__ = ["selective_scan"]
