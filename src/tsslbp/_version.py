"""The version, which the repository's tags decide when the package is built."""

from importlib import metadata

try:
    __version__ = metadata.version("tsslbp")
except metadata.PackageNotFoundError:  # a copy of the sources that was never installed
    __version__ = "0+unknown"
