"""The results of sweeps: Parquet schema, writer, reader, verification. Never imports torch, transformers or Ray."""
