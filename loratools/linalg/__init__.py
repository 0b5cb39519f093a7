"""Pure mathematics on arrays: truncated SVD with a certificate, skinny factors, ranks, rounding.

Nothing here knows of checkpoints or adapters. `svd` and `rounding_torch` import torch; the others need numpy
alone, and this package imports neither, so that a caller pays only for the room it enters.
"""
