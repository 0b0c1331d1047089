"""Tables: CSV and Parquet files."""
