"""Files that hold records: JSON, CSV, parquet, Arrow, tar and zip."""
