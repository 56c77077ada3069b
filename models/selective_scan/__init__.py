"""Selective scan: the recurrence at the heart of Mamba, with interchangeable backends. See interface.py for the contract."""

from models.selective_scan.interface import selective_scan

__all__ = ["selective_scan"]
