"""Whether a run was worth it: accuracy, cost and wrong labels at a glance, beside full training if there is such a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from alignprune_pl.report.run_files import RunFiles, accuracy_among, read_run
from alignprune_pl.report.same_data import other_data
from alignprune_pl.report.settings import settings_of

_SHOWN = 0.0005  # shares that differ by less look the same
_ALIKE = 0.005  # half a point of accuracy, which chance moves
_OF_PRUNING = ("pruning", "score", "reference", "callback", "data.reference")
_NAMED = 4


def full_training(folder: Path, run: RunFiles) -> RunFiles:
    """The run that pruned nothing, to which another is compared.

    Raises:
        ValueError: If the folder is not that of a finished run, it pruned, or its data set or noise is another.
    """
    full = read_run(folder)
    given, saved = f"{folder} is given as full training", full.summary.get("saved", 0.0)
    if abs(saved) > _SHOWN:
        raise ValueError(
            f"{given}, but a run that prunes nothing is expected, and this one saved {percents(saved)} of the samples; "
            "train once with pruning=none and give that run's folder."
        )
    if full.title != run.title:
        raise ValueError(
            f"{given}, and trained on {full.title}, but {run.title} is expected, as in {run.folder}; train once with "
            "pruning=none on the same data set and noise."
        )
    corrected = [settings_of(each.config).get("data.correct_only", "False") for each in (full, run)]
    differing = (
        f"data.correct_only={corrected[0]} against {corrected[1]}" if len({*corrected}) > 1 else other_data(full, run)
    )
    if differing:
        raise ValueError(
            f"{given}, and trained on other data than {run.folder} ({differing}), but the same are expected; train once "
            "with pruning=none and the other settings of that run."
        )
    return full


def worth(run: RunFiles, full: RunFiles | None = None) -> dict[str, Any]:
    """The panel on top of a run's page.

    Returns:
        ``verdict``, a sentence. ``tiles``, each with its ``name``, ``value``, ``words`` and ``bars``. ``note``, what to bear
        in mind. ``missing``, what to compare with where nothing is given: ``full`` training, or for such a run a ``pruned``
        one.
    """
    kind, own, others = _accuracy(run, full)
    saved = run.summary.get("saved")
    tiles = [_accuracy_tile(kind, own, others), _cost_tile(run, saved), _noise_tile(run)]
    return {
        "verdict": _alone(kind, own, saved) if full is None else _verdict(kind, own, others, saved),
        "tiles": [tile for tile in tiles if tile],
        "note": "" if full is None else _note(run, full),
        "missing": "" if full is not None else "full" if saved is None or abs(saved) > _SHOWN else "pruned",
    }


def percents(share: float) -> str:
    """A share as it is read."""
    return f"{100 * share:.1f} %"


def _accuracy(run: RunFiles, full: RunFiles | None) -> tuple[str, float | None, float | None]:
    """The accuracy that all have: what it is, of the run, and of full training."""
    runs = [run] if full is None else [run, full]
    for kind, accuracy in (("test accuracy", _tested), ("validation accuracy", _validated)):
        values = [accuracy(each) for each in runs]
        if None not in values:
            return kind, values[0], values[-1] if full is not None else None
    return "accuracy", None, None


def _tested(run: RunFiles) -> float | None:
    return run.summary.get("test_acc")


def _validated(run: RunFiles) -> float | None:
    values = run.epochs.get(accuracy_among(list(run.epochs)) or "", np.array([]))
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None


def _bar(name: str, share: float, variable: str, most: float = 1.0) -> dict[str, Any]:
    return {
        "name": name,
        "text": percents(share),
        "width": f"{100 * min(1.0, max(0.0, share / most)):.1f}%",
        "variable": variable,
    }


def _accuracy_tile(kind: str, own: float | None, others: float | None) -> dict[str, Any] | None:
    if own is None:
        return None
    bars = [_bar("this run", own, "right")]
    words = "after the last epoch"
    if others is not None:
        bars.append(_bar("full training", others, "soft"))
        words = f"{words}, {_points(own, others)} full training"
    return {"name": kind, "value": percents(own), "words": words, "bars": bars}


def _points(own: float, others: float) -> str:
    """How far one accuracy is from the other, as both are shown."""
    difference = round(100 * own, 1) - round(100 * others, 1)
    if round(difference, 1) == 0:
        return "equal to"
    return f"{abs(difference):.1f} points {'above' if difference > 0 else 'below'}"


def _cost_tile(run: RunFiles, saved: float | None) -> dict[str, Any] | None:
    if saved is None:
        return None
    words = "not trained on; a probe counts as a third"
    if "pruning_time" in run.summary:
        words = f"{words}. Pruning took {percents(run.summary['pruning_time'])} of the run's time"
    most = max(1.0, 1 - saved)
    bars = [_bar("trained on in this run", 1 - saved, "right", most), _bar("in full training", 1.0, "soft", most)]
    return {"name": "samples saved", "value": percents(saved), "words": words, "bars": bars}


def _noise_tile(run: RunFiles) -> dict[str, Any] | None:
    kept, rate, estimate = (run.summary.get(key) for key in ("noise_kept", "noise_rate", "estimated_noise_rate"))
    bars = [_bar("kept", kept, "wrong")] if kept is not None else []
    bars += [_bar("in the data", rate, "soft")] if rate is not None else []
    bars += [_bar("estimated in the data", estimate, "soft")] if estimate is not None else []
    if kept is not None:
        words = "of all samples trained on, over the epochs"
        return {"name": f"{run.wrong_labels} kept", "value": percents(kept), "words": words, "bars": bars}
    if estimate is not None:
        words = "of the training data, as the run estimates them; which they are is not known"
        return {"name": "estimated wrong labels", "value": percents(estimate), "words": words, "bars": bars}
    return None


def _alone(kind: str, own: float | None, saved: float | None) -> str:
    said = [f"{percents(own)} {kind}"] if own is not None else []
    said += [_saved(saved)] if saved is not None else []
    return f"{', with '.join(said)}." if said else ""


def _saved(saved: float) -> str:
    if abs(saved) < _SHOWN:
        return "no samples saved"
    return f"{percents(abs(saved))} {'of the samples saved' if saved > 0 else 'more samples than full training'}"


def _verdict(kind: str, own: float | None, others: float | None, saved: float | None) -> str:
    is_cheaper = saved is not None and saved >= _SHOWN
    if own is None or others is None:
        said = "Cheaper in samples than full training" if is_cheaper else "Not cheaper in samples than full training"
        figures = "the two runs have no accuracy in common"
    else:
        figures = f"{kind} is {_points(own, others)} that of full training"
        if abs(own - others) < _ALIKE:
            said = f"As accurate as full training, {'and cheaper' if is_cheaper else 'and not cheaper'} in samples"
        elif own > others:
            said = f"More accurate than full training, {'and cheaper' if is_cheaper else 'but not cheaper'} in samples"
        else:
            said = f"Less accurate than full training, {'but cheaper' if is_cheaper else 'and not cheaper'} in samples"
    return f"{said}: {figures}, with {_saved(saved or 0.0)}."


def _note(run: RunFiles, full: RunFiles) -> str:
    note = "One run of each: with another seed the figures differ."
    own, others = _described(run), _described(full)
    keys = [key for key in dict.fromkeys([*own, *others]) if own.get(key) != others.get(key)]
    if not keys:
        return note
    named = [f"{key} ({own.get(key, 'none')} against {others.get(key, 'none')})" for key in keys[:_NAMED]]
    more = f" and {len(keys) - _NAMED} more settings" if len(keys) > _NAMED else ""
    return f"{note} Besides pruning, this run and full training differ in {', '.join(named)}{more}."


def _described(run: RunFiles) -> dict[str, str]:
    """What else than pruning a run's accuracy depends on."""
    settings = {name: value for name, value in settings_of(run.config).items() if not name.startswith(_OF_PRUNING)}
    summary = run.summary
    of_all = {"seed": f"{summary['seed']}", "training samples": f"{summary['train_samples']:,}"}
    return {**of_all, "epochs": f"{summary.get('epochs', 0):g}", **settings}
