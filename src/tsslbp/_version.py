"""The version, for whatever must know it before the package is imported whole."""

__version__ = "0.1.0"
