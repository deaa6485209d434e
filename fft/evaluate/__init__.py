"""Models on rows: logits, scores of many parameter trees, the base as a teacher, fitted heads, generated texts."""
