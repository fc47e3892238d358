"""Private examples by what the user points at: bundled pictures, folders, tables, arrays, TFRecord files, sentences."""
