"""Images named by, or stored in, tables: Parquet, Arrow, CSV and saved datasets."""
