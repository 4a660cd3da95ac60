"""Tables and time series, where the project makes module, loader and Trainer itself."""

from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from spy import Training

_SIZES = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def darts() -> Training:
    from darts import TimeSeries
    from darts.models import NBEATSModel

    g = np.random.default_rng(0)
    values = (np.arange(40) / 10 + 0.2 * g.standard_normal(40)).astype(np.float32)

    def fit(callbacks: list[Any]) -> list[Any]:
        sizes = {"num_stacks": 1, "num_blocks": 1, "num_layers": 2, "layer_widths": 16}
        arguments = {**_SIZES, "enable_model_summary": False, "callbacks": callbacks}
        model = NBEATSModel(6, 2, batch_size=6, n_epochs=2, pl_trainer_kwargs=arguments, **sizes)
        model.fit(TimeSeries.from_values(values), verbose=False)
        return callbacks

    def ids(batch):  # a window is known by its first value
        return batch.past_target[:, 0, 0].double()

    return Training(ids, fit=fit, alone=True, remark="by `model.fit`, on pytorch_lightning")


def neuralforecast() -> Training:
    return _neuralforecast(None, "one window a series, ")


def neuralforecast_sampled() -> Training:
    return _neuralforecast(64, "windows sampled from the batch's series, ")


def _neuralforecast(windows: int | None, how: str) -> Training:
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MAE
    from neuralforecast.models import MLP

    g = np.random.default_rng(0)
    length = 9  # with a step of 3, one window for each series
    days = pd.date_range("2020-01-01", periods=length)
    frames = [
        pd.DataFrame({"unique_id": i, "ds": days, "y": (i + g.standard_normal(length)).astype(np.float32)})
        for i in range(24)
    ]

    def fit(callbacks: list[Any]) -> list[Any]:
        model = MLP(
            h=3,
            input_size=6,
            loss=MAE(),
            num_layers=1,
            hidden_size=16,
            max_steps=6,
            batch_size=6,
            windows_batch_size=windows,
            step_size=3,
            scaler_type="identity",
            callbacks=callbacks,
            start_padding_enabled=False,
            **_SIZES,
        )
        forecast = NeuralForecast([model], freq="D")
        forecast.fit(pd.concat(frames))
        return forecast.models[0].trainer_kwargs["callbacks"]  # it trains with copies

    def ids(batch):
        return batch["temporal"][:, 0, 0].double()

    return Training(ids, fit=fit, alone=True, remark=how + "by `NeuralForecast.fit`, on pytorch_lightning")


def pytorch_tabular() -> Training:
    from pytorch_tabular import TabularModel
    from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
    from pytorch_tabular.models import CategoryEmbeddingModelConfig

    g = np.random.default_rng(0)
    frame = pd.DataFrame({"number": np.arange(32) / 32, "a": g.standard_normal(32), "b": np.array(list("xyzw") * 8)})
    frame["target"] = g.integers(0, 3, 32)

    def fit(callbacks: list[Any]) -> list[Any]:
        quiet = {"checkpoints": None, "load_best": False, "early_stopping": None, "progress_bar": "none"}
        model = TabularModel(
            data_config=DataConfig(
                target=["target"],
                continuous_cols=["number", "a"],
                categorical_cols=["b"],
                normalize_continuous_features=False,
            ),
            model_config=CategoryEmbeddingModelConfig(
                task="classification", layers="16-8", batch_norm_continuous_input=False
            ),
            optimizer_config=OptimizerConfig(),
            trainer_config=TrainerConfig(max_epochs=2, batch_size=6, accelerator="cpu", **quiet),
            verbose=False,
        )
        model.fit(train=frame, validation=frame, callbacks=callbacks)
        return callbacks

    def ids(batch):
        return (batch["continuous"][:, 0] * 32).round().long()

    def losses(module, batch):
        return F.cross_entropy(module(batch)["logits"], batch["target"].flatten(), reduction="none")

    return Training(ids, fit=fit, losses=losses, remark="by `TabularModel.fit`, on pytorch_lightning")


def pytorch_forecasting_tft() -> Training:
    from pytorch_forecasting import TemporalFusionTransformer
    from pytorch_forecasting.metrics import QuantileLoss

    data, loader = _series()
    module = TemporalFusionTransformer.from_dataset(
        data, hidden_size=8, attention_head_size=1, dropout=0.0, hidden_continuous_size=4, loss=QuantileLoss()
    )
    return Training(_window, module, loader, alone=True, remark="own module, data set and loader")


def pytorch_forecasting_nbeats() -> Training:
    from pytorch_forecasting import NBeats
    from pytorch_forecasting.metrics import MAE

    data, loader = _series()
    widths = {
        "widths": [8, 8],
        "num_blocks": [1, 1],
        "num_block_layers": [1, 1],
        "expansion_coefficient_lengths": [2, 3],
    }
    module = NBeats.from_dataset(data, loss=MAE(), dropout=0.0, **widths)
    return Training(_window, module, loader, alone=True, remark="own module, data set and loader; backcast in the loss")


def _window(batch: Any) -> torch.Tensor:
    return batch[0]["encoder_target"][:, 0].double()


def _series() -> Any:
    from pytorch_forecasting import TimeSeriesDataSet

    g = np.random.default_rng(0)
    rows = [{"series": str(i), "t": t, "y": i + 0.5 * g.standard_normal()} for i in range(4) for t in range(14)]
    data = TimeSeriesDataSet(
        pd.DataFrame(rows),
        time_idx="t",
        target="y",
        group_ids=["series"],
        max_encoder_length=6,
        max_prediction_length=2,
        time_varying_unknown_reals=["y"],
        scalers={},
    )
    return data, data.to_dataloader(train=True, batch_size=6, num_workers=0)
