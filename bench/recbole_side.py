"""RecBole's half of ``bench.sequential``: one model on one folder, figures as a line of JSON.

Run by the Python of RecBole's own environment, which has neither msrrec nor Ray::

    PYTHON bench/recbole_side.py '{"folder": …, "name": …, "model": "SASRec", "seed": 0, …}'

With ``epochs`` it trains so many and tells the CPU seconds of each; without, it trains up to the
best epoch on validation and tells the test figures. Data stand in ``folder/name/name.inter``.
"""

import json
import logging
import sys
import tempfile
import time
import types
from typing import Any


def stand_in(name: str, **attributes: Any) -> None:
    """Register an empty module that RecBole imports but that is not used here."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


stand_in("ray", tune=types.ModuleType("ray.tune"))
stand_in("torch.utils.tensorboard", SummaryWriter=lambda *_: Silent())


class Silent:
    """A logger that discards everything."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402


def configure(job: dict[str, Any], checkpoints: str) -> Config:
    """RecBole's defaults, except for split, full ranking, histories and early stopping."""
    return Config(
        model=job["model"],
        dataset=job["name"],
        config_dict={
            "data_path": job["folder"],
            "checkpoint_dir": checkpoints,
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "item_id",
            "TIME_FIELD": "timestamp",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
            "MAX_ITEM_LIST_LENGTH": job["length"],
            "train_neg_sample_args": None,
            "learning_rate": job["learning_rate"],
            "train_batch_size": job["batch_size"],
            "epochs": job.get("epochs", job.get("max_epochs")),
            "stopping_step": job.get("patience", 10),
            "metrics": ["Recall", "NDCG", "MRR"],
            "topk": [10],
            "valid_metric": "MRR@10",
            "seed": job["seed"],
            "state": "ERROR",
            "show_progress": False,
            "use_gpu": False,
            "log_wandb": False,
        },
    )


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train one model, and time or test it."""
    torch.set_num_threads(job["threads"])
    load = torch.load
    torch.load = lambda *args, **options: load(*args, **{"weights_only": False, **options})
    with tempfile.TemporaryDirectory() as checkpoints:
        sys.argv = sys.argv[:1]
        config = configure(job, checkpoints)
        logging.disable(logging.CRITICAL)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        model = get_model(config["model"])(config, train._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        if "epochs" in job:
            return {"cpu_s": [time_epoch(trainer, train, n) for n in range(job["epochs"])]}
        trainer.fit(train, valid, verbose=False, saved=True, show_progress=False)
        result = trainer.evaluate(test, load_best_model=True, show_progress=False)
        return {"recall@10": result["recall@10"], "ndcg@10": result["ndcg@10"]}


def time_epoch(trainer: Any, train: Any, epoch: int) -> float:
    """CPU seconds of one epoch."""
    begin = time.process_time()
    trainer._train_epoch(train, epoch)
    return time.process_time() - begin


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
