"""The labels that runs take for wrong, beside those that cleanlab finds in the same runs, against the known wrong ones.

python scripts/train.py -m dataset=fashion_mnist noise=sym50,pairflip40 pruning=calibrated seed=0,1,2
python scripts/compare_cleanlab.py multirun/DATE/TIME/* [--folds 5 [--stop-after 5]] [--markdown]

cleanlab reads the probabilities of classes for each sample. It is given those of the run's finished network, which has
trained on most of the samples; and with --folds those that it recommends, of a cross-validation: as many networks of the
run's settings are trained as there are folds, without pruning, each on the other folds' samples; --stop-after ends these
trainings early, before they memorise.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.cli.train import classifier, data_of
from alignprune_pl.data import NoisyData
from alignprune_pl.data.splits import one_of_each
from alignprune_pl.report import RunFiles, read_run
from alignprune_pl.report.comparison import grouped
from tables import markdown, on_terminal, spread

HEAD = ("runs", "found by", "precision", "recall", "F1", "average precision")


def figures(mask: np.ndarray, found: np.ndarray, ranking: np.ndarray) -> list[float]:
    """Precision, recall and F1 of what was found, and average precision of the ranking, in percent."""
    hits, ranked = (mask & found).sum(), ~np.isnan(ranking)  # what has no score is in no ranking
    precision, recall = hits / max(1, found.sum()), hits / mask.sum()
    f1 = 2 * hits / (found.sum() + mask.sum())
    average_precision = average_precision_score(mask[ranked], ranking[ranked])
    return [100 * float(figure) for figure in (precision, recall, f1, average_precision)]


def of_run(run: RunFiles, folds: int, stop_after: int | None) -> dict[str, list[float]]:
    """The figures of each."""
    mask = run.mask
    probabilities, labels = run.record["probabilities"].astype(np.float64), run.labels["label"]
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # which half precision has rounded
    ours = np.zeros(len(mask), dtype=bool)
    ours[run.issues] = True
    found = {"alignprune-pl": figures(mask, ours, run.suspicion), "cleanlab": of_cleanlab(mask, labels, probabilities)}
    if folds:
        name = f"cleanlab, {folds} folds" + (f", {stop_after} epochs" if stop_after else "")
        found[name] = of_cleanlab(mask, labels, cross_validated(run, folds, stop_after))
    return found


def check_installed() -> None:
    """Say how to get cleanlab, which is no requirement of ours, before anything is read or trained.

    Raises:
        SystemExit: If it is not installed.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise SystemExit("error: cleanlab is missing, beside which labels are compared; run pip install cleanlab.")


def check(run: RunFiles, folds: int) -> None:
    """Refuse a run that cannot be compared, before any is.

    Raises:
        ValueError: If it is not known which labels are wrong, the run kept no probabilities, or its settings do not lead
            to its training data again, which folds need.
    """
    if run.mask is None:
        raise ValueError(f"{run.folder} has no wrong labels that are known.")
    if not run.is_truth_known:
        raise ValueError(f"{run.folder} has labels that were made wrong, but nobody knows which others are.")
    if run.ranked is None:
        raise ValueError(f"{run.folder} has no score for both right and wrong labels.")
    run.check_predictions()
    lacking = [name for name in ("dataset", "data", "noise", "trainer") if name not in run.config]
    if folds and lacking:
        raise ValueError(
            f"{run.folder} has no {lacking[0]} among its settings, by which its training data would be made again for "
            "folds; leave out --folds, or give a run of scripts/train.py."
        )
    if "probabilities" not in run.record:
        raise ValueError(f"{run.folder} kept no probabilities: there are too many samples and classes.")
    if folds and not np.array_equal(data_again(run)[1].labels, run.labels["label"]):
        raise ValueError(
            f"{run.folder} trained on other labels than its settings give, as with a picked reference; leave --folds out."
        )


def data_again(run: RunFiles) -> tuple[DictConfig, NoisyData]:
    """The run's settings, for one process, and its data; what was done to its reference must not be done to a fold."""
    one = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    cfg = OmegaConf.merge(run.config, {"trainer": one, "data": {"reference_wrong": 0.0, "reference_pixel_noise": 0.0}})
    return cfg, data_of(cfg, instantiate(cfg.noise))


def of_cleanlab(mask: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> list[float]:
    """What cleanlab finds by probabilities, float64[n, C]."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    issues = find_label_issues(labels, probabilities, n_jobs=1)
    return figures(mask, issues, -get_label_quality_scores(labels, probabilities))


def cross_validated(run: RunFiles, folds: int, stop_after: int | None = None) -> np.ndarray:
    """What networks that did not train on a sample say of it, float64[n, C]."""
    probabilities = np.zeros((len(run.suspicion), len(run.classes)))
    splits = StratifiedKFold(folds, shuffle=True, random_state=run.config["seed"])
    for _, held in splits.split(probabilities, run.labels["label"]):
        cfg, data = data_again(run)
        # An image may be listed in several samples, under labels of its own in each: none of them is trained on.
        shown = data.benchmark.images_of["train"][data.train_index[held]]
        image = shown.unique(return_inverse=True)[1]
        first = one_of_each(image, torch.zeros_like(image))
        data.take_reference(torch.from_numpy(held)[first], "a fold")
        data.predict_dataloader = data.reference_dataloader
        pl.seed_everything(cfg.seed)
        module = classifier(cfg, data)
        epochs = stop_after or cfg.trainer.max_epochs
        trainer = instantiate(
            cfg.trainer, max_epochs=epochs, logger=False, enable_checkpointing=False, limit_val_batches=0
        )
        trainer.fit(module, datamodule=data)
        said = torch.cat(trainer.predict(module, datamodule=data))
        probabilities[held] = said.double().softmax(dim=1)[image[first].argsort()[image]]
    return probabilities


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="of finished runs")
    parser.add_argument("--folds", type=int, default=0, help="of a cross-validation for cleanlab, 5 say; 0 for none")
    parser.add_argument(
        "--stop-after", type=int, help="epochs of the cross-validation; by default as many as the run's"
    )
    parser.add_argument("--markdown", action="store_true", help="a Markdown table instead of one for the terminal")
    arguments = parser.parse_args()
    if arguments.folds == 1 or arguments.folds < 0:
        raise SystemExit(f"error: --folds {arguments.folds} is given, but 2 or more are expected, or 0 for none.")
    if arguments.stop_after is not None and (arguments.stop_after < 1 or not arguments.folds):
        raise SystemExit(
            f"error: --stop-after {arguments.stop_after} is given, but 1 or more is expected, beside --folds."
        )
    check_installed()
    body = []
    try:
        # A sweep has files of its own beside its runs.
        runs = [read_run(folder) for folder in arguments.folder if not folder.is_file()]
        for run in runs:
            check(run, arguments.folds)
        for name, members in grouped(runs).items():
            figures_of = [of_run(run, arguments.folds, arguments.stop_after) for run in members]
            for who in figures_of[0]:
                columns = zip(*(of_one[who] for of_one in figures_of), strict=True)
                body.append([name, who, *(spread(column) for column in columns)])
    except InstantiationException as error:
        raise SystemExit(f"error: {error.__cause__ or error}") from None
    if arguments.markdown:
        print("\n".join(markdown(HEAD, body)))
    else:
        on_terminal("Wrong labels found, in percent", HEAD, body)


if __name__ == "__main__":
    main()
