"""Train, pack, score, prove, report: each stage a function from files to files, runnable alone and resumable.

A run directory holds, in the order they appear:

    recipe.toml describe.json                 what will be trained
    metrics.jsonl checkpoint.safetensors      while it trains; probes.jsonl where the recipe wants it
    weights.safetensors tokenizer.model run.json    the trained model and its receipt
    model.nut pack.json                       the artifact and its ledger
    score.json proof.nsp proof.json           what it scores, and the proof
    summary.json report.html                  the answer

A stage writes its JSON last, and names in it what it was made from.
"""
