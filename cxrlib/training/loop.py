"""One training run: epochs, evaluation, checkpoints, and resuming after an interruption, to bit-identical weights."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, broadcast_object_list, set_seed

from cxrlib.core import processes
from cxrlib.core.errors import InputError
from cxrlib.core.paths import write_csv
from cxrlib.core.progress import bar
from cxrlib.data.dataset import EpochBatches, augment, make_loader, to_unit
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import build_model, save_checkpoint
from cxrlib.models.checkpoints import write_checkpoint
from cxrlib.models.names import SUFFIXES
from cxrlib.training.config import TrainConfig
from cxrlib.training.costs import choose
from cxrlib.training.device import kept_memory, pick_device
from cxrlib.training.familiarity import remember_training
from cxrlib.training.inference import predict
from cxrlib.training.inputs import Images, datasets, identity, left_by, parts_to_remember, set_aside
from cxrlib.training.losses import make_loss
from cxrlib.training.optimization import EMA, learning_rate, parameter_groups, start_at_prevalence, strengthen_dropout
from cxrlib.training.probe import fit_probe

_LOOK_EVERY = 50  # steps between reads of the loss, each of which synchronizes the GPU


@kept_memory()
def fit(config: TrainConfig, entries, images: Images, out: str | Path, progress=True, familiarity=True) -> pd.DataFrame:
    """Train on the training split and select the epoch on the validation split; the test split is not used.

    Writes to `out`: model_best.pth (highest validation macro AUROC), model_last.pth, history.csv, predictions_val.npz
    (best epoch), and, until the run ends, state.pth after each epoch and every config.save_minutes. With config.resume
    an interrupted run resumes from it, and a finished one returns its history; else `set_aside` clears the folder.

    entries: with labels, patients and the column part. images: of config.image_size, or {name: path}.
    familiarity: whether to add what tells that another image is unlike those of the run (`training.familiarity`).
    Returns one row per epoch: epoch, lr, train_loss, val_loss, val_auroc (macro), images_per_s, seconds, best. Raises
    InputError if a split is empty, no finding has a validation AUROC, the loss is not finite, or, with config.resume,
    `out` has a run of another configuration.
    """
    train = fit_probe if config.mode == "probe" else _train
    history = train(config, entries, images, Path(out), progress)
    if familiarity and processes.is_first():
        paths = [Path(out, f"model_{name}.pth") for name in ("best", "last")]
        remember_training(paths, *datasets(config, entries, images), pick_device(config.device))
    return history


def _train(config: TrainConfig, entries: pd.DataFrame, images, out: Path, progress: bool) -> pd.DataFrame:
    training = _Training(config, entries, images, out, progress)
    if config.resume and left_by(out / "model_last.pth", training.identity):
        return pd.read_csv(out / "history.csv")
    training.start()
    while not training.over:
        training.epoch()
    training.accelerator.wait_for_everyone()
    if training.main:
        (out / "state.pth").unlink(missing_ok=True)
    return pd.DataFrame(training.rows)


class _Training:
    """The state of a run between epochs, which a saved state restores."""

    def __init__(self, config, entries, images, out: Path, progress: bool):
        self.config, self.entries, self.out = config, entries, out
        if not processes.several():  # a notebook may train on another device than before
            AcceleratorState._reset_state(reset_partial_state=True)
        torch.backends.cudnn.deterministic = True  # its fastest algorithms are not
        self.accelerator = Accelerator(cpu=pick_device(config.device) == "cpu", mixed_precision="no")
        self.main = self.accelerator.is_main_process
        self.train, self.val = datasets(config, entries, images)
        self.shown = progress and self.main
        process, count = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = EpochBatches(len(self.train), config.batch_size, config.seed, process, count)
        self.loader = make_loader(self.train, batches=self.batches, num_workers=config.num_workers)
        self.rows, self.step = [], 0  # history of finished epochs; updates done
        self.spent = 0.0  # seconds on the current epoch before an interruption
        # must be equal for a run to resume another
        self.identity = identity(config, self.train.entries, self.val.entries) | {"processes": count}

    def start(self) -> None:
        """Build model and optimizer, or restore them from the saved state."""
        config, device = self.config, self.accelerator.device
        state = left_by(self.out / "state.pth", self.identity) if config.resume else None
        self.parts = parts_to_remember(config, self.entries) if state is None else state["parts"]
        set_seed(config.seed)
        model = build_model(config.arch, config.weights if state is None else "none", config.image_size)
        strengthen_dropout(model, config.drop_strength)
        if not config.weights.endswith(SUFFIXES):  # a checkpoint has a trained head
            start_at_prevalence(model.head, self.train.labels)
        if state is None:  # the main process chooses for all
            self.choice = broadcast_object_list([choose(config, model, device, self.shown) if self.main else None])[0]
        else:
            self.choice = state["choice"]
        model.lay_out(self.choice["layout"]).to(device)
        self.criterion = make_loss(config.loss, self.train.labels.to(device), config.pos_weight_cap)
        optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, fused=device.type != "mps")
        self.ema = EMA(model, config.ema_decay)
        self.ema.model.tta = config.tta
        self.stateful = {"model": model, "average": self.ema.model, "optimizer": optimizer}
        self.losses = torch.zeros(len(self.batches), device=device)
        self.accelerator.wait_for_everyone()  # the start checkpoint may be one of those that are moved
        if state is None and self.main:
            set_aside(self.out)
        elif state is not None:
            for name, one in self.stateful.items():
                one.load_state_dict(state[name])
            self.rows, self.step, self.spent = state["rows"], state["step"], state["seconds"]
            self.losses.copy_(state["losses"])
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.saved = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether the last epoch is done, or `patience` epochs brought no improvement."""
        since = next((past for past, row in enumerate(reversed(self.rows)) if row["best"]), 0)
        return len(self.rows) == self.config.epochs or 0 < self.config.patience <= since

    def epoch(self) -> None:
        """Train one epoch or the rest of it, evaluate the averaged weights, and write all files."""
        began, first, steps = time.perf_counter(), self.step % len(self.batches), len(self.batches)
        self.began, self.spent = began - self.spent, 0.0
        number = len(self.rows) + 1
        self.batches.epoch, self.batches.first = number, first
        shown = bar(self.loader, show=self.shown, leave=False, initial=first, total=steps, unit=" batches",
                    desc=f"epoch {number}/{self.config.epochs}")  # fmt: skip
        self.model.train()
        for done, (x, labels) in enumerate(shown, start=first + 1):
            self.losses[done - 1] = self._update(x, labels)
            self.step += 1
            if done % _LOOK_EVERY == 1 or done == steps:
                shown.set_postfix(loss=f"{self._mean_loss(done):.4f}")
            if time.perf_counter() - self.saved > 60 * self.config.save_minutes and done < steps:
                self._save_state(done)
        seen = (steps - first) * self.config.batch_size * self.accelerator.num_processes
        speed = min(seen, len(self.train)) / (time.perf_counter() - began)

        for buffer in self.ema.model.buffers():  # use the main process's batch norm statistics
            buffer.copy_(broadcast(buffer.clone()))
        predictions = predict(self.ema.model, self.val, self.config.batch_size, accelerator=self.accelerator)
        logits = torch.logit(torch.from_numpy(predictions.scores), eps=1e-6).to(self.losses.device)
        auroc = float(evaluate(predictions, replicates=0).loc["macro", "auroc"])
        row = {"epoch": number, "lr": self._learning_rate(self.step - 1), "train_loss": self._mean_loss(steps)}
        row |= {"val_loss": float(self.criterion(logits, self.val.labels.to(logits.device))), "val_auroc": auroc}
        row |= {"images_per_s": speed, "seconds": time.perf_counter() - self.began}
        self.rows.append(row | {"best": all(auroc > row["val_auroc"] for row in self.rows)})
        if self.main:
            self._save_epoch(predictions)

    def _update(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Do one optimizer step; returns the loss, on the device."""
        config, device = self.config, self.accelerator.device
        seed = np.random.SeedSequence((config.seed, self.step, self.accelerator.process_index)).generate_state(1)
        torch.manual_seed(int(seed[0]))  # dropout; the augmentation has the same seed
        x, labels = x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if config.augment:
            x = augment(x, config.augment, generator=torch.Generator().manual_seed(int(seed[0])))
        if config.mixup:
            share = float(np.random.default_rng(seed).beta(config.mixup, config.mixup))
            x, labels = (share * each + (1 - share) * each.flip(0) for each in (to_unit(x), labels))
        for group in self.optimizer.param_groups:
            frozen = self.step < config.head_epochs * len(self.batches) and not group["head"]
            group["lr"] = 0.0 if frozen else self._learning_rate(self.step) * group["scale"]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.choice["precision"] == "bf16"):
            logits = self.model(x)
        loss = self.criterion(logits.float(), labels)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.stateful["model"], self.step)
        return loss.detach()

    def _learning_rate(self, step: int) -> float:
        """The full rate while only the head is trained, then the schedule."""
        head = self.config.head_epochs * len(self.batches)
        steps = self.config.epochs * len(self.batches) - head
        return self.config.lr if step < head else learning_rate(step - head, steps, self.config)

    def _mean_loss(self, count: int) -> float:
        """Mean loss of the first `count` steps of the epoch. Raises InputError if one is not finite."""
        losses = self.losses[:count].cpu()
        if not torch.isfinite(losses).all():
            batch = int((~torch.isfinite(losses)).nonzero()[0]) + 1
            kept = f"; {self.out / 'model_last.pth'} of epoch {len(self.rows)} is kept" if self.rows else ""
            place = f"batch {batch} of epoch {len(self.rows) + 1}"
            raise InputError(f"training diverged: the loss became {losses[batch - 1]} at {place}; expected a number: "
                             f"lower lr ({self.config.lr:g}) or use precision=fp32{kept}")  # fmt: skip
        return float(losses.mean())

    def _save_epoch(self, predictions: Predictions) -> None:
        row = self.rows[-1]
        content = {"parts": self.parts, "config": self.config.model_dump() | self.choice}
        content |= {"epoch": row["epoch"], "val_auroc": row["val_auroc"]}
        if row["best"]:
            save_checkpoint(self.out / "model_best.pth", self.ema.model, **content)
            predictions.save(self.out / "predictions_val.npz")
        write_csv(self.out / "history.csv", pd.DataFrame(self.rows), index=False)
        done = {"identity": self.identity} if self.over else {}
        save_checkpoint(self.out / "model_last.pth", self.ema.model, **content, **done)
        self._save_state(0)

    def _save_state(self, place: int) -> None:
        """Save everything that the rest of the run depends on; `place`: batches done in the current epoch."""
        self._mean_loss(place)  # refuses to save a diverged run
        if self.main:
            content = {name: getattr(self, name) for name in ("identity", "choice", "parts", "rows", "step")}
            content |= {"losses": self.losses.cpu(), "seconds": time.perf_counter() - self.began if place else 0.0}
            content |= {name: one.state_dict() for name, one in self.stateful.items()}
            write_checkpoint(self.out / "state.pth", content)
        self.saved = time.perf_counter()
