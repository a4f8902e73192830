"""Check for the training libraries, and silence their logging."""

from __future__ import annotations

import warnings

from asym_analysis.errors import AdapterError

__all__ = ["prepare_training"]


def prepare_training() -> None:
    """Check that the `finetune` extra is installed, and quieten what its libraries say on every load.

    Raises
    ------
    AdapterError
        If one of them is missing; the message says how to install it.
    """
    try:
        import accelerate  # noqa: F401
        import datasets
        import peft  # noqa: F401
        import transformers
    except ImportError as error:
        raise AdapterError(f"{error.name} is not installed; pip install 'asym_analysis[finetune]'") from error
    # Of transformers' own code, which a user cannot change.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
