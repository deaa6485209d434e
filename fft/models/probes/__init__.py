"""What looks into a forward or backward pass: inputs of the dense layers, squared gradients."""
