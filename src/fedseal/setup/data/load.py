"""Data by name or path: what it is decides how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedseal.errors import BadConfig, StorageFailure, UnfitBatch
from fedseal.modality import Image
from fedseal.modality.table import Missing
from fedseal.setup.data import arrays, images, tables, tfrecord
from fedseal.setup.data.arrays import Arrays
from fedseal.setup.data.dataset import UNIT, Dataset, output_count
from fedseal.types import Batch

TABLES = (".csv", ".tsv", ".parquet")


def load_data(
    source: str | Path,
    *,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    label: str | None = None,
    missing: Missing = "refuse",
    like: Dataset | None = None,
    names: tuple[str, ...] = (),
    span: tuple[float, float] | None = None,
    what: str = "--shape",
) -> Dataset:
    """The examples that a name or path stands for.

    Bundled pictures go by name; a folder holds pictures, `.csv`, `.tsv` and `.parquet` files tables, `.tfrecord` files
    examples of TensorFlow, and any other file is taken for numpy arrays (`.npz`).

    Args:
        size: pixels a side of pictures, or their shape `(C, H, W)`; of a TFRecord file the shape of one input.
        mean, std: the model's normalization of pictures, one number a channel; None for pixels in [0, 1].
        label: the column of a table that holds the class.
        missing: what to do about missing values of a table.
        like: of a table, rows read before, whose schema holds for these too.
        names: of a folder's classes, where they are agreed with others.
        span: the values that become 0 and 1, of arrays and of pictures of more than 8 bits; None to go by the type.
        what: the shape is given by, for errors.

    Raises:
        StorageFailure: nothing is there, or it cannot be read.
        BadConfig, UnfitBatch, UnfitPicture: it holds nothing usable.

    >>> load_data("fashion_mnist").shape, load_data("photos", size=8).classes
    ((1, 28, 28), 100)
    """
    name, path = str(source), Path(source)
    shape = None if size is None or isinstance(size, int) else tuple(size)
    suffix = path.suffix.lower()
    if name in images.BUNDLED or path.is_dir():
        image = Image(images.shape_of(name, size, what), _tuple(mean), _tuple(std))
        return (
            images.bundled(name, image)
            if name in images.BUNDLED
            else images.folder(path, image, names=names, span=span)
        )
    if suffix in TABLES:
        if label is None:
            raise BadConfig(f"the table '{name}' is given without the column of the class", "name its label: COLUMN")
        return tables.table(path, label=label, missing=missing, like=like)
    if not path.exists():
        raise StorageFailure(
            f"there is no data '{name}' (looked in '{Path.cwd()}')",
            "give an .npz, .parquet, .csv or .tfrecord file, a folder of pictures, or " + ", ".join(images.BUNDLED),
        )
    read = (
        tfrecord.tfrecord_arrays(path, shape, span) if suffix in tfrecord.SUFFIXES else arrays.read_arrays(path, span)
    )
    return _plain(read, path, _tuple(mean), _tuple(std))


def data_kind(source: str) -> str:
    """What the data of a name or path is: "pictures" in files, a "table", or "arrays"."""
    if source in images.BUNDLED or Path(source).is_dir():
        return "pictures"
    return "table" if Path(source).suffix.lower() in TABLES else "arrays"


def _plain(read: Arrays, path: Path, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Dataset:
    """Arrays, which are pictures if they have the shape and the range of some."""
    batch, image = read.batch, None
    shape = tuple(batch.inputs.shape[1:])
    if not batch.inputs.numel():
        raise UnfitBatch(f"the examples in '{path}' have the shape {shape}, and so no values", "give some that have")
    if read.scale == UNIT and len(shape) == 3 and shape[0] in (1, 3):
        image = Image((shape[0], shape[1], shape[2]), mean, std)
        batch = Batch(image.encode(batch.inputs), batch.labels)
    return Dataset(batch, image, path.stem, output_count(batch), scale=read.scale, channels=read.channels)


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
