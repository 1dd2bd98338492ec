"""A run on disk: the same calls on all processes, of which rank 0 writes."""

import time
from collections.abc import Callable
from pathlib import Path

from common import UserError

from .checkpoint import Progress, restore_progress, save_checkpoint, save_progress
from .run_directory import RunDirectory
from .trainer import Trainer
from .world import World

# At most one part in twenty of the time goes into saving, and no more than six saves a minute.
LARGEST_SHARE = 0.05
SHORTEST_INTERVAL = 10.0  # seconds


class Run:
    """Saves and restores everything that the next step depends on, and keeps the best weights.

    Parameters
    ----------
    world : World
    open_directory : callable
        Called on rank 0; the others learn the path.
    save_every : str, optional
        How often: steps as ``"50"``, seconds as ``"30s"``; None keeps to ``LARGEST_SHARE`` of the time.
    """

    def __init__(
        self, world: World, open_directory: Callable[[], RunDirectory], save_every: str | None
    ) -> None:
        self.world = world
        self.directory = open_directory() if world.is_main else None
        self.path = Path(world.gather(str(self.directory.path) if self.directory else "")[0])
        self.has_saved = False  # there is a last.pt
        self._best: dict[str, dict] = {}  # by file: the best weights that are not on disk yet
        self._every = save_every
        self._saved_at, self._saved_step, self._cost = time.monotonic(), 0, 0.0

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error) -> None:
        if self.directory:
            self.directory.close()

    def restore(self, trainer: Trainer) -> Progress:
        """Go back to last.pt; a run that was ended before its first save starts anew, and the same.

        Raises
        ------
        UserError
            If last.pt is damaged or of another net or optimiser, or a file that belongs to it is gone.
        """
        last, best, metrics = (self.path / name for name in ("last.pt", "best.pt", "metrics.csv"))
        if not last.exists():
            if metrics.exists() and len(metrics.read_text(encoding="utf-8").splitlines()) > 1:
                raise UserError(
                    f"{self.path} has epochs in its metrics.csv and no last.pt to continue from: start a new run "
                    f"with another --run-name, or from its weights with --checkpoint {best}"
                )
            return Progress()
        progress = restore_progress(last, trainer)
        if progress.best_epoch and not best.exists():
            raise UserError(
                f"{best} is gone, which held the best weights so far, of epoch {progress.best_epoch}: put it back, "
                f"or start a new run from the last ones with --checkpoint {last} and another --run-name"
            )
        self._saved_step, self.has_saved = progress.step, True
        return progress

    def keep_best(
        self, trainer: Trainer, accuracy: float, epoch: int, info: dict, averaged: bool = False
    ) -> None:
        """Remember the weights of now, or their moving average, as the best; the next save writes them.

        `info` is plain data that best.pt carries, so that it can be used without the run.
        """
        net = trainer.averaged.module if averaged else trainer.net
        weights = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
        content = {"model": weights, "test_acc": accuracy, "epoch": epoch, "info": info}
        self._best["best_ema.pt" if averaged else "best.pt"] = content

    def due(self, step: int) -> bool:
        """Whether it is time for a save, at this step."""
        if self._every and not self._every.endswith("s"):
            return step - self._saved_step >= int(self._every)
        automatic = max(SHORTEST_INTERVAL, self._cost / LARGEST_SHARE)
        return time.monotonic() - self._saved_at > (float(self._every[:-1]) if self._every else automatic)

    def save(
        self, trainer: Trainer, progress: Progress, info: dict, publish: Callable[[Path, dict], None]
    ) -> None:
        """Write the best weights, if they are new, and then last.pt, each whole or not at all.

        ``publish(path, content)`` is called after each new best file. See `save_progress` for what is raised.
        """

        def write_best() -> None:
            for name, content in self._best.items():
                save_checkpoint(self.path / name, content)
                publish(self.path / name, content)

        start = time.monotonic()
        save_progress(self.path / "last.pt", trainer, progress, info, write_best)
        self._best = {}
        self._saved_at, self._saved_step = time.monotonic(), progress.step
        self._cost = self._saved_at - start
        self.has_saved = True
