"""What a run leaves in its folder, for any Trainer: its settings, labels, figures by epoch, findings and summary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from alignprune_pl.callback import AlignPrune
from alignprune_pl.core import epoch_metrics
from alignprune_pl.core.checking import check_count
from alignprune_pl.fit.elsewhere import Copied
from alignprune_pl.fit.predictions import Predictions
from alignprune_pl.fit.twins import MisconfigurationException, UnderBothNames, version_of
from alignprune_pl.report import run_files
from alignprune_pl.training.given import arrays, check_places, whole_numbers, writable
from alignprune_pl.training.thumbnails import picture, pictures_of_suspects
from alignprune_pl.training.trajectories import Trajectories


class RunFolder(Copied, UnderBothNames, pl.Callback):
    """Leaves the folder that ``alignprune-report`` and ``alignprune-audit`` read.

    It follows the :class:`~alignprune_pl.AlignPrune` among the Trainer's callbacks, and stands after it:
    ``Trainer(callbacks=[AlignPrune(...), RunFolder("runs/a")])``. The folder gets ``config.yaml`` and ``labels.npz`` before
    training, ``epochs.csv`` with every epoch, and ``record.npz`` and ``summary.json`` at the end of ``fit``.
    ``trainer.test`` adds its metrics to the summary. Each file is replaced as a whole, so that a killed run keeps what its
    finished epochs have left. The figures have the names that the module logs. Those that begin with ``val`` stand in the
    rows of epochs that were validated.

    Training ends with one forward pass in eval mode over the training set, or over ``probe_data`` where AlignPrune has it.
    It sees the logits and targets of the loss in ``training_step``. They tell what the network takes each sample for and,
    where ``labels`` are not given, what it is labelled. A loss without logits, such as ``mse_loss``, or one that the step
    gives itself leaves no predictions. The report is then drawn without the parts that need them, and the audit is refused.

    Args:
        folder: It is made.
        class_names: By label; by default the numbers.
        labels: int64[n], what is trained on; by default learnt from the loss.
        clean_labels: int64[n], the truth, where it is known. With the labels it tells which are wrong, where AlignPrune has
            no ``noise_mask``.
        images: For pictures of the most suspect samples, not normalised. ``images[i]`` is a PIL image, uint8[C, H, W],
            uint8[H, W], uint8[H, W, C], or a tuple whose first item is one. A page without them has no pictures.
        paths: Of the samples' files, for the audit.
        config: The run's settings, for ``config.yaml``; the comparison of runs tells them apart by it.
        about: Further entries of ``summary.json``, such as ``dataset``, ``noise``, ``options`` and ``reference_from``.
        train_index: int64[n], where each sample stands in the data set that it is a part of; by default 0 to n - 1.
        reference_index: int64[r], likewise the reference's.
        reference_labels: int64[r], its labels.
        trained_before: Samples trained before this run, as for picking its reference; they count in ``saved``.
        shown: Of how many samples, drawn at random, the trajectories of all epochs are kept.
        seed: By which these are drawn.
        record: Whether ``record.npz`` is written, which report and audit need. False saves the forward pass.

    Attributes:
        summary: What ``summary.json`` has; empty before the end of ``fit``.
        rows: What ``epochs.csv`` has: one dictionary an epoch.

    Raises:
        ValueError: If labels are no whole numbers or have no name, ``config`` or ``about`` cannot be written, or a number is
            out of range.
        MisconfigurationException: Before the first step, if there is no AlignPrune before it, or what is given of each
            sample is not as long as the training set.

    Example:
        >>> prune = AlignPrune(policy="infobatch", score="loss")
        >>> trainer = pl.Trainer(callbacks=[prune, RunFolder("runs/a")], logger=False, accelerator="cpu")
    """

    _carried = ("summary", "_at_end_of_fit", "rows", "_trajectories")

    def __init__(
        self,
        folder: str | Path,
        *,
        class_names: Sequence[str] | None = None,
        labels: Any = None,
        clean_labels: Any = None,
        images: Any = None,
        paths: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        train_index: Any = None,
        reference_index: Any = None,
        reference_labels: Any = None,
        trained_before: int = 0,
        shown: int = 5000,
        seed: int = 0,
        record: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self.labels = whole_numbers("labels", labels)
        self.clean_labels = whole_numbers("clean_labels", clean_labels)
        self.train_index = whole_numbers("train_index", train_index)
        self.reference_index = whole_numbers("reference_index", reference_index)
        self.reference_labels = whole_numbers("reference_labels", reference_labels)
        if self.reference_labels is not None:
            index = self.reference_index
            count = 0 if index is None else len(index)
            if len(self.reference_labels) != count:
                raise ValueError(
                    f"reference_labels of {len(self.reference_labels)} samples are given, but one for each of the {count} "
                    "of reference_index is expected; give both, or neither."
                )
        self.images = images
        self.paths = None if paths is None else list(paths)
        self.config = writable("config", config, yaml.safe_dump)
        self.about = writable("about", about, json.dumps)
        self.trained_before = check_count("trained_before", trained_before, 0)
        self.shown = check_count("shown", shown, 1, "a number of trajectories")
        self.seed = seed
        self.record = record
        self._check_names()
        self._prune: AlignPrune | None = None
        self._forget()

    def _forget(self) -> None:
        """Start anew, as nothing had been followed."""
        self.summary: dict[str, Any] = {}
        self._at_end_of_fit: dict[str, Any] = {}  # without a test's metrics
        self.rows: list[dict[str, float]] = []
        self._trajectories = Trajectories(self.shown, self.seed)
        self._predictions: Predictions | None = None
        self._has_looked = False
        self._validated: int | None = None

    def _check_names(self) -> None:
        for name in ("labels", "clean_labels", "reference_labels"):
            labels = getattr(self, name)
            if labels is None or not len(labels):
                continue
            most = len(self.class_names) if self.class_names is not None else int(labels.max()) + 1
            if int(labels.min()) < 0 or int(labels.max()) >= most:
                raise ValueError(
                    f"{name} from {int(labels.min())} to {int(labels.max())} are given, but 0 to {most - 1} are expected; "
                    "number the classes from 0, and give class_names one for each."
                )

    # ---- before training --------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the callback to follow, and forget another run."""
        self._set_out(trainer)
        if stage != "fit":
            return
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        before = callbacks[: callbacks.index(self)]
        self._prune = next((callback for callback in before if isinstance(callback, AlignPrune)), None)
        if self._prune is None or self._prune.sharded:
            stands = "it stands before it" if any(isinstance(c, AlignPrune) for c in callbacks) else "there is none"
            stands = stands if self._prune is None else "with sharded=True no rank has all that is written"
            raise MisconfigurationException(
                f"RunFolder follows an AlignPrune among the Trainer's callbacks, but {stands}; pass "
                "Trainer(callbacks=[AlignPrune(...), RunFolder(...)])."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MisconfigurationException(
                f"RunFolder got folder={str(self.folder)!r}, which cannot be made ({error}); give one that can be written."
            ) from error
        if trainer.current_epoch == 0:
            self._forget()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the epochs of the interrupted run."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._trajectories.load_state_dict(state_dict["trajectories"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what is given against the training set, and write what is known of the run."""
        self._check_lengths()
        if self.images is not None:
            picture(self.images, 0)  # raises now what it would raise at the end
        self.summary, self._at_end_of_fit, self._has_looked = {}, {}, False  # of a fit before this one
        if trainer.is_global_zero:
            self._clear()
            self._write_known()

    def _clear(self) -> None:
        """Remove what another run has left, or this one before it goes on, and would not be replaced or not be true."""
        known = ((run_files.SUMMARY, self._has_looked), (run_files.EPOCHS, True), (run_files.RECORD, self.record))
        for name in (name for name, stays in known if not (self.rows and stays)):
            (self.folder / name).unlink(missing_ok=True)

    def _check_lengths(self) -> None:
        n = check_places(self._followed).num_samples
        for name in ("labels", "clean_labels", "paths", "train_index", "images"):
            given = getattr(self, name)
            if hasattr(given, "__len__") and len(given) != n:
                raise MisconfigurationException(
                    f"RunFolder got {name} of {len(given)} samples, but the training set has {n}; give one for each, in its "
                    "order."
                )

    def _write_known(self) -> None:
        """Settings, and the labels as far as they are known."""
        run_files.write_config(self.folder, self.config)
        known = {
            "train_index": torch.arange(self._followed.store.num_samples)
            if self.train_index is None
            else self.train_index,
            "label": self._label,
            "clean_label": self.clean_labels,
            "noise_mask": self._noise_mask,
            "reference_index": self.reference_index,
            "reference_label": self.reference_labels,
        }
        run_files.write_labels(self.folder, arrays(known))

    @property
    def _followed(self) -> AlignPrune:
        if self._prune is None:
            raise RuntimeError("RunFolder follows a run once the Trainer has set it up.")
        return self._prune

    @property
    def _label(self) -> Tensor | None:
        """int64[n], what is trained on; None while nobody has told."""
        if self.labels is None and self._predictions is not None:
            return self._predictions.label
        return self.labels

    @property
    def _noise_mask(self) -> Tensor | None:
        """bool[n], the wrong labels, where they are known."""
        if self._followed.noise_mask is not None:
            return self._followed.noise_mask
        if self._label is None or self.clean_labels is None:
            return None
        return self._label != self.clean_labels

    # ---- by epoch ---------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember which epoch was validated."""
        if not trainer.sanity_checking:
            self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row, and keep what it has shown of the samples and of the reference."""
        self._catch_up({trainer.current_epoch: self._figures(trainer, trainer.current_epoch)})
        if trainer.is_global_zero:
            run_files.write_epochs(self.folder, self.rows)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the row of the epoch before: what the module logs at an epoch's end comes after this callback's hook."""
        self._complete(trainer)

    def _complete(self, trainer: pl.Trainer) -> None:
        if not self.rows:
            return
        row = self.rows[-1]
        whole = {**row, **self._figures(trainer, int(row["epoch"]))}
        if str(whole) != str(row):  # NaN is not itself
            self.rows[-1] = whole
            if trainer.is_global_zero:
                run_files.write_epochs(self.folder, self.rows)

    def _figures(self, trainer: pl.Trainer, epoch: int) -> dict[str, float]:
        """What the epoch has logged, without what an earlier one's validation has, which Lightning goes on showing."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._validated == epoch:
            return figures
        return {name: figure for name, figure in figures.items() if not run_files.is_of_validation(name)}

    def _catch_up(self, figures: Mapping[int, dict[str, float]]) -> None:
        """Add the epochs that have ended, with the figures of these.

        A run that resumes from an epoch's last batch goes past its end.
        """
        known = {row["epoch"] for row in self.rows}
        for row in self._followed.history:
            if row["epoch"] not in known:
                logged = figures.get(int(row["epoch"]), epoch_metrics.logged(row))
                self.rows.append({"epoch": row["epoch"], **logged})
        self.rows.sort(key=lambda row: row["epoch"])
        self._trajectories.catch_up(self._followed.store)

    # ---- at the end -------------------------------------------------------------------------------------

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at all training samples once more."""
        self._complete(trainer)
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._has_looked = True
        self._catch_up({})
        if not (self.record and self.rows):
            return
        self._predictions = self._followed.predictions(trainer, pl_module)
        if self._predictions is not None and self.labels is not None:
            others = int((self._predictions.label != self.labels).sum())
            if others:
                rank_zero_warn(
                    f"RunFolder got labels of which {others} are not those that the loss has; they are given in the "
                    "training set's order, or left out."
                )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what there is now, also of a run that was at its end already when it resumed."""
        if trainer.train_dataloader is None:
            return  # nothing was to be trained
        if not self._has_looked:  # it has not been trained, and the Trainer has put it away
            self._check_lengths()
            device = pl_module.device
            pl_module.to(trainer.strategy.root_device)
            self._look(trainer, pl_module)
            pl_module.to(device)
        self.summary = self._at_end_of_fit = self._summarised(trainer)
        if not trainer.is_global_zero:
            return
        self._clear()
        self._write_known()
        if self.rows:
            run_files.write_epochs(self.folder, self.rows)
        if self.rows and self.record:
            run_files.write_record(self.folder, self._recorded())
        run_files.write_summary(self.folder, self.summary)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the test's metrics to the summary."""
        if not self.summary:
            return  # it is of a network that has not been followed
        tested = {name.replace("/", "_"): float(value) for name, value in trainer.callback_metrics.items()}
        self.summary = {**tested, **self._at_end_of_fit}
        if trainer.is_global_zero:
            run_files.write_summary(self.folder, self.summary)

    def _summarised(self, trainer: pl.Trainer) -> dict[str, Any]:
        prune, mask = self._followed, self._noise_mask
        n = prune.store.num_samples
        figures = prune.summary()
        figures["saved"] -= self.trained_before / (max(1, figures["epochs"]) * n)
        if mask is not None:
            figures["noise_rate"] = float(mask.float().mean())
        accuracy = run_files.accuracy_among([name for row in self.rows for name in row])
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if prune.seed is None else prune.seed
        return {
            "best_acc": max((row[accuracy] for row in self.rows if accuracy in row), default=None),
            **figures,
            **({"trained_before": self.trained_before} if self.trained_before else {}),
            "dataset": type(trainer.train_dataloader.dataset).__name__,  # type: ignore[union-attr]
            "train_samples": n,
            "reference_samples": 0 if prune.reference is None else prune.reference.num_samples,
            "reference_from": "none" if prune.reference is None else "given",
            "noise": "",
            "noise_known": self.clean_labels is not None,
            "policy": repr(prune.policy),
            "score": repr(prune.score),
            "conclusion": prune.policy.conclusion(),
            "observes": prune.score.observes,
            "options": {},
            "seed": seed,
            "alignprune_pl": version("alignprune-pl"),
            "torch": torch.__version__,
            "lightning": version_of(trainer),
            **self.about,
        }

    def _recorded(self) -> dict[str, np.ndarray[Any, Any]]:
        """What a report and an audit are made from."""
        suspicion, said = self._followed.suspicion(), self._predictions
        kept: dict[str, Tensor | None] = {
            **self._trajectories.tensors(),
            "suspicion": suspicion,
            "probability": self._followed.wrong_probability(),
        }
        if said is not None:
            kept |= {name: getattr(said, name) for name in ("predicted", "p_predicted", "p_label", "probabilities")}
        kept |= {} if self.images is None else pictures_of_suspects(self.images, suspicion)
        paths = {} if self.paths is None else {"paths": np.array([os.fsencode(path) for path in self.paths])}
        return {**arrays(kept), "classes": np.array(self._names(), dtype=str), **paths}

    def _names(self) -> list[str]:
        """Of all classes that there are."""
        named = self.class_names or []
        known = [
            int(labels.max()) + 1 for labels in (self._label, self.clean_labels) if labels is not None and len(labels)
        ]
        classes = max([len(named), *known, 0 if self._predictions is None else self._predictions.classes])
        return [*named, *(str(number) for number in range(len(named), classes))]

    # ---- state ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The rows and trajectories so far, so that a resumed run's files are whole."""
        return {"rows": [dict(row) for row in self.rows], "trajectories": self._trajectories.state_dict()}
