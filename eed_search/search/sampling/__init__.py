"""Which trials are tried: the queue of proposals, the portfolio, the surrogate model, Optuna's study."""
