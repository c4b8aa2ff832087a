"""From a trained model to one file of bytes and back: container, manifest, ledger, and the search for a budget."""
