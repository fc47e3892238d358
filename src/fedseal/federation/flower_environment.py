"""Flower without what it does unasked: telemetry, update checks and usage statistics are off in all that is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedseal.errors import MissingExtra, shown_record

SILENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns about what it will do one day
}


def quiet() -> None:
    """Switch off everything with which Flower and Ray would reach out."""
    os.environ.update(SILENT)


def flwr() -> Any:
    """Flower's parts that are used here.

    Raises:
        MissingExtra: it is not installed.
    """
    quiet()
    try:
        import flwr.app
        import flwr.clientapp
        import flwr.serverapp
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed", "pip install 'fedseal[federation]'") from None
    return flwr


@contextmanager
def only_errors(*names: str) -> Iterator[None]:
    """Let these loggers say what is wrong, and nothing else; what they say of others' texts is shown, not obeyed."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
        logger.addFilter(shown_record)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeFilter(shown_record)
