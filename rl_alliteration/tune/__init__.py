"""The thin Ray layer: plan a sweep, run its trials with Ray Tune."""

import os

# Read when Ray is imported. Our own store, event log, TensorBoard and signal handling take the place of Tune's.
for _variable, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_variable, _value)
