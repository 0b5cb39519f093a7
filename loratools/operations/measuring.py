"""Running models of transformers in the middle of a verb: quietly, and on so many threads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def measuring(threads: int) -> Iterator[None]:
    """Without the progress bars and warnings of transformers and PEFT, which are not about this run.

    Args:
        threads: of torch. One is best for small models: threads that wait for each other on a busy machine
            take three times as long (measured).
    """
    import torch
    from transformers.utils import logging

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
