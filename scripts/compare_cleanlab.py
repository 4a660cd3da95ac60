"""The labels that runs take for wrong, beside those that cleanlab finds in the same runs, against the known wrong ones.

python scripts/train.py -m dataset=fashion_mnist noise=sym50,pairflip40 pruning=calibrated seed=0,1,2
python scripts/compare_cleanlab.py multirun/DATE/TIME/* [--markdown]

cleanlab is given what it asks for, the probabilities that the finished network gives each training sample. They are no
cross-validation's: a sample that was trained on is in them as it was learnt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import average_precision_score

from alignprune_pl.report import RunFiles, read_run
from alignprune_pl.report.comparison import grouped
from alignprune_pl.report.figures import known_scores
from tables import markdown, on_terminal, spread

HEAD = ("runs", "found by", "precision", "recall", "F1", "average precision")


def figures(mask: np.ndarray, found: np.ndarray, ranking: np.ndarray) -> list[float]:
    """Precision, recall and F1 of what was found, and average precision of the ranking, in percent."""
    hits = (mask & found).sum()
    precision, recall = hits / max(1, found.sum()), hits / mask.sum()
    f1 = 2 * hits / (found.sum() + mask.sum())
    return [100 * float(figure) for figure in (precision, recall, f1, average_precision_score(mask, ranking))]


def of_run(run: RunFiles) -> dict[str, list[float]]:
    """The figures of both.

    Raises:
        ValueError: If no wrong labels are known, or the run kept no probabilities.
    """
    mask, suspicion = known_scores(run)
    if "probabilities" not in run.record:
        raise ValueError(f"{run.folder} kept no probabilities: there are too many samples and classes.")
    probabilities, labels = run.record["probabilities"].astype(np.float64), run.labels["label"]
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # which half precision has rounded
    ours = np.zeros(len(mask), dtype=bool)
    ours[run.issues] = True
    theirs = find_label_issues(labels, probabilities, n_jobs=1)
    quality = get_label_quality_scores(labels, probabilities)
    return {"alignprune-pl": figures(mask, ours, suspicion), "cleanlab": figures(mask, theirs, -quality)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="of finished runs")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table instead of one for the terminal")
    arguments = parser.parse_args()
    body = []
    try:
        # A sweep has files of its own beside its runs.
        runs = [read_run(folder) for folder in arguments.folder if folder.is_dir()]
        for name, members in grouped(runs).items():
            figures_of = [of_run(run) for run in members]
            for who in figures_of[0]:
                columns = zip(*(of_one[who] for of_one in figures_of), strict=True)
                body.append([name, who, *(spread(column) for column in columns)])
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    if arguments.markdown:
        print("\n".join(markdown(HEAD, body)))
    else:
        on_terminal("Wrong labels found, in percent", HEAD, body)


if __name__ == "__main__":
    main()
