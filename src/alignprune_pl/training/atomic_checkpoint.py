"""Checkpoints of which a kill or a full disk leaves the last whole one."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from alignprune_pl.fit.twins import UnderBothNames
from alignprune_pl.report.whole_file import replaced


class AtomicCheckpointIO(UnderBothNames, TorchCheckpointIO):
    """Writes a local checkpoint beside its place and puts it there in one step, so that it is never half a file.

    Reading one that is damaged all the same ends in a sentence with its path.

    Lightning writes into the system's folder for temporary files and moves the file, which is a copy, and no single
    step, where that folder is on another disk.

    Example:
        >>> import lightning.pytorch as pl
        >>> trainer = pl.Trainer(plugins=[AtomicCheckpointIO()], logger=False, accelerator="cpu")
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; an address such as ``s3://...`` is left to Lightning.

        Raises:
            OSError: If the file cannot be written; what was at ``path`` before is still there.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replaced(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            OSError: If there is no file that may be read.
            ValueError: If it is damaged, or is no checkpoint.
        """
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
            return checkpoint
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except Exception as error:  # a damaged archive can raise nearly anything
            reason = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]]).rstrip(": ")
            raise ValueError(
                f"{path} is given, but it is damaged or no checkpoint ({reason}); give another, or start anew without it."
            ) from error
