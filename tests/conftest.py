"""Its place puts `tests/` on the import path: helpers that several folders share are modules beside it."""
