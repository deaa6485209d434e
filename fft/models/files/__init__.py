"""Loading and saving of checkpoints in Hugging Face's format; safetensors only."""
