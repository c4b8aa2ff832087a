"""Text in, tokens out: documents, the tokenizer, shards, the data set and training batches."""
