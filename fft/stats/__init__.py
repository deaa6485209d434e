"""Numbers on plain arrays and records: metrics, intervals, verdicts, budgets, fronts, forgetting."""
