"""The rows of a table as they stand in a file or a frame: which of many are drawn, and what its columns are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedseal.errors import BadConfig, FedsealError, MissingExtra, StorageFailure, UnfitBatch, brief
from fedseal.modality.csv_dialect import dialect, pieces_of, plain, typed, word

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 50_000  # rows that are read at a time
NAMELESS = re.compile(r"|Unnamed: [0-9]+|__index_level_[0-9]+__")  # as pandas writes and reads the numbers of rows


def read_frame(source: str | Path | pd.DataFrame, limit: int, notes: list[str], label: str) -> pd.DataFrame:
    """A table as it stands in its file, its columns' names as text, without columns that have none.

    Args:
        limit: rows at most; of more so many are drawn.
        notes: what was found out in reading is appended.
        label: the column of the class, which is read as it is written.

    Raises:
        StorageFailure: nothing is there, or no table, or text that cannot be decoded.
        UnfitBatch: it has no rows, two columns of one name, or numbers that may mean two things.
        BadConfig: neither a path nor a frame.
        MissingExtra: pandas, or pyarrow for parquet, is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra(
            "reading tables needs pandas, which is not installed", "pip install 'fedseal[tables]'"
        ) from None
    texts = False
    if isinstance(source, pd.DataFrame):
        pieces: Iterable[pd.DataFrame] = [source]
        name = "the frame"
    elif isinstance(source, (str, Path)):
        name = f"'{source}'"
        if not Path(source).is_file():
            raise StorageFailure(f"there is no table {name}", "check the path")
        texts = Path(source).suffix.lower() not in (".parquet", ".pq")
        pieces = _csv(Path(source)) if texts else _parquet(Path(source))
    else:
        raise BadConfig(f"a table of type {type(source).__name__}", "give a path, or a pandas frame")
    try:
        frame, total = _thinned(pieces, limit)
        frame.select_dtypes(exclude="number").astype(object)  # pyarrow decodes texts where they are used
    except FedsealError:
        raise
    except Exception as error:  # noqa: BLE001 - pandas and pyarrow raise whatever they raise on foreign bytes
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StorageFailure(f"{name} cannot be read as a table ({first})", "give a CSV or parquet file") from None
    if len(frame) == 0:
        raise UnfitBatch(f"{name} has no rows", "give a table with rows below its line of names")
    frame = _named(frame, name, notes)
    if texts:
        found = dialect(Path(str(source)))
        notes += found.notes
        frame = typed(frame, label, name, found.separator == ";", notes)
    else:
        frame = _worded(frame)
    if total > len(frame):
        notes.append(f"{len(frame):,} rows of {total:,} were drawn; the schema is theirs")
    return frame


def _named(frame: pd.DataFrame, where: str, notes: list[str]) -> pd.DataFrame:
    """A table with its columns' names as text, without those that have none: numbers of rows, as pandas writes them."""
    names = [plain(str(column)) for column in frame.columns]
    nameless = [place for place, name in enumerate(names) if NAMELESS.fullmatch(name)]
    kept = [place for place in range(len(names)) if place not in nameless]
    if twice := next((names[place] for place in kept if names.count(names[place]) > 1), None):
        raise UnfitBatch(f"{where} has two columns '{brief(twice)}'", "give every column a name of its own")
    if nameless:
        places = ", ".join(str(place + 1) for place in nameless)
        notes.append(f"columns without a name, as rows are numbered in, were left out: number {places}")
    found = frame.iloc[:, kept]
    found.columns = [names[place] for place in kept]
    return found


def _worded(frame: pd.DataFrame) -> pd.DataFrame:
    """A table that has types, whose truths and words are those that a CSV file of it holds."""
    import pandas as pd
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    def named(value: object) -> object:
        return word(str(value)) if isinstance(value, (str, bool, np.bool_)) else value

    columns = {
        name: pd.Series([named(value) for value in values.tolist()], index=frame.index, dtype=object)
        if is_bool_dtype(values) or not is_numeric_dtype(values)
        else values
        for name, values in frame.items()
    }
    return pd.DataFrame(columns, index=frame.index)


def _csv(path: Path) -> Iterator[pd.DataFrame]:
    import pandas as pd

    for names, rows in pieces_of(path, dialect(path).separator, CHUNK):
        yield pd.DataFrame(rows, columns=names, dtype=object)


def _parquet(path: Path) -> Iterator[pd.DataFrame]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtra("parquet needs pyarrow, which is not installed", "pip install 'fedseal[tables]'") from None
    with parquet.ParquetFile(path) as file:
        if file.metadata.num_rows == 0:
            yield file.read().to_pandas()
        for piece in file.iter_batches(batch_size=CHUNK):
            yield piece.to_pandas()


def _thinned(pieces: Iterable[pd.DataFrame], limit: int) -> tuple[pd.DataFrame, int]:
    """Up to `limit` rows in their order, and the number of all rows; holds one piece more at any time.

    The rows of least hash of their number: evenly spaced ones would fall in step with a table that repeats itself. The
    index keeps the rows' numbers in the file, by which one is named that is refused.
    """
    import pandas as pd

    kept, marks, total = pd.DataFrame(), np.empty(0, np.uint64), 0
    for piece in pieces:
        piece = piece.set_axis(pd.RangeIndex(total, total + len(piece)))
        new = _hashed(np.arange(total, total + len(piece), dtype=np.uint64))
        total += len(piece)
        if len(marks) == limit:
            few = new < marks.max()
            piece, new = piece[few], new[few]
        kept, marks = pd.concat([kept, piece]) if len(kept) else piece, np.concatenate([marks, new])
        if len(marks) > limit:
            least = np.sort(np.argpartition(marks, limit)[:limit])
            kept, marks = kept.iloc[least], marks[least]
    return kept, total


def _hashed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The splitmix64 generator's output function (Steele, Lea and Flood, OOPSLA 2014): one to one, without pattern."""
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def marked(frame: pd.DataFrame) -> dict[str, tuple[int, str]]:
    """Of a table that `read_frame` read from CSV, by column: the first row without a value, and what stands there."""
    return dict(frame.attrs.get("missing", {}))
