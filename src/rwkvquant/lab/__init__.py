"""The laboratory: models x requests x bits x seeds, each measured once under stated conditions (docs/laboratory.md)."""
