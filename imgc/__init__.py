"""imgc: a declarative image-build compiler for CI clouds.  Start reading at :mod:`imgc.build`."""

__version__ = "0.1.0"
