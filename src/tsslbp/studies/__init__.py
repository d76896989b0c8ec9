"""Many runs: seeds, comparisons of learning rules, hyperparameter search, and what starts them."""
