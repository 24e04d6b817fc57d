"""MONAI's ``--tracking mlflow`` with every bundle, into a database file in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.bundle import run
from test_bundles import configs, each_volume_bundle, small, study  # noqa: F401 (a fixture is used by its name)

mlflow = pytest.importorskip("mlflow")
# MONAI refuses MLflow's folders of files since MLflow does: a local store is a SQLite file.
pytest.importorskip("sqlalchemy", reason="MLflow's local store needs sqlalchemy and alembic")
pytest.importorskip("alembic", reason="MLflow's local store needs sqlalchemy and alembic")


def tracked(bundle: Path, overrides: dict[str, Any]) -> None:
    run(
        run_id="training",
        config_file=configs(bundle, "train"),
        logging_file=False,
        tracking="mlflow",
        experiment_name="hospital",
        **overrides,
    )


@each_volume_bundle
def test_losses_and_dice_of_every_epoch_are_tracked(bundle: Path, study: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "run"
    overrides = small(bundle, study, folder) | {"max_epochs": 2, "iterations_per_epoch": 1, "val_interval": 1}
    tracked(bundle, overrides)
    # A resumed run is another configuration only in what tracking adds.
    tracked(bundle, overrides | {"max_epochs": 3, "resume": True})

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlruns.db'}")
    experiment = client.get_experiment_by_name("hospital")
    resumed, first = client.search_runs(experiment.experiment_id)
    assert (first.info.status, first.data.params) == ("FINISHED", {"max_epochs": "2", "epoch_length": "1"})
    assert resumed.data.params["max_epochs"] == "3"
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    dice = [name for name in header.split(",") if name.startswith("val_mean_dice")]
    assert len(dice) > 1  # the mean, and each label or region
    for name in ("train_loss", *dice):
        assert [m.step for m in client.get_metric_history(first.info.run_id, name)] == [1, 2]
        assert [m.step for m in client.get_metric_history(resumed.info.run_id, name)] == [3]
    loss = [float(row.split(",")[4]) for row in rows]
    history = client.get_metric_history(first.info.run_id, "train_loss")
    assert [m.value for m in history] == pytest.approx(loss[:2], abs=1e-5)
