"""Checkpoints in Hugging Face's folders, in and out; safetensors alone."""
