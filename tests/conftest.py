"""Its place puts `tests/` on the import path: helpers that several folders share are modules beside it."""


def pytest_collection_modifyitems(items):
    """Start with whole trainings in processes of their own: a file that takes a minute must not begin last."""
    items.sort(key=lambda item: "integration" not in item.path.parts and item.path.name != "test_cli.py")
