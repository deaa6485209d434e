"""Model families, one per file: config, Hugging Face's key names, sequence head."""
