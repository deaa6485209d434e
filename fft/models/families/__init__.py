"""One family of models a file: sizes, blocks, Hugging Face's key names."""
